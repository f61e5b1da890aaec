"""The work tree in Debian's hands: what the host needs, the workshop of each suite, the packages built there."""

from __future__ import annotations

import argparse
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

from tools.lab.roots import digest, layer, log, workshop_root
from tools.lab.scratch import LabError, Scratch, command

SUITES = ("bookworm", "trixie")
# Elsewhere, Debian has no libraries for the controller that are new enough.
CONTROLLER_SUITE = "trixie"
TREE = Path(__file__).resolve().parents[2]
HOST_PACKAGES = (
    "debian-archive-keyring e2fsprogs git iproute2 mmdebstrap mosquitto mosquitto-clients python3-jsonschema"
    " openssl python3-pip python3-pytest qemu-system-x86 systemd-container util-linux"
).split()


def ensure_host() -> None:
    """Installs what the host lacks; raises LabError where that cannot work."""
    if os.geteuid() != 0:
        raise LabError("cannot make containers without root; run this as root (sudo)")
    if not shutil.which("apt-get"):
        raise LabError("cannot install what is needed: this is made for Debian, and there is no apt-get here")
    missing = [name for name in HOST_PACKAGES if not _is_installed(name)]
    if not missing:
        return
    log.info("installing %s", " ".join(missing))
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    install = ("apt-get", "-qy", "--no-install-recommends", "install", *missing)
    try:
        command(*install, env=quiet)
    except LabError:
        # No lists yet, or lists that are too old. If the update fails, the second try says what is wrong.
        subprocess.run(["apt-get", "-qq", "update"], env=quiet, stdin=subprocess.DEVNULL, check=False)
        command(*install, env=quiet)
    if "mosquitto" in missing and Path("/run/systemd/system").exists():
        # The tests start brokers of their own; the host did not ask for one on port 1883.
        command("systemctl", "disable", "--now", "--quiet", "mosquitto.service")


def _is_installed(package: str) -> bool:
    query = ["dpkg-query", "-W", "-f", "${db:Status-Status}", package]
    return subprocess.run(query, capture_output=True, text=True).stdout == "installed"


class Workshop(Scratch):
    """A root with the tools of its suite, the tree copied to /build/src, and no network but its loopback."""

    def __init__(self, suite: str, files: Iterable[Path], layers: Sequence[Path] = ()) -> None:
        super().__init__(f"workshop-{suite}", layers or [workshop_root(suite)])
        self.suite = suite
        self.source = self.root / "build" / "src"
        for file in files:
            target = self.source / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(TREE / file, target, follow_symlinks=False)
        command("chown", "-R", "1000:1000", self.root / "build")

    def start(
        self,
        *args: str,
        env: dict[str, str] | None = None,
        output: IO[bytes] | int | None = None,
        network: str | None = None,
    ) -> subprocess.Popen[bytes]:
        """Starts a command in /build/src as the user `builder`; if said so, in the network of a machine."""
        path = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        variables = {"HOME": "/home/builder", "LANG": "C.UTF-8", "PATH": path} | (env or {})
        options = [f"--setenv={name}={value}" for name, value in variables.items()]
        # systemd-analyze wants to be able to write there, be it only to look at a unit file.
        options += ["--tmpfs=/run/systemd:mode=1777"]
        options += [f"--network-namespace-path=/run/netns/{network}" if network else "--private-network"]
        options += ["--as-pid2", "--user=builder", "--chdir=/build/src"]
        return self.popen(*self.nspawn(*options, *args), output=output)

    def run(self, *args: str, log: Path, env: dict[str, str] | None = None) -> None:
        """Runs a command to its end; raises LabError with the end of its log."""
        with log.open("wb") as output:
            status = self.start(*args, env=env, output=output).wait()
        if status != 0:
            words = log.read_text(errors="replace")[-4000:]
            raise LabError(f"`{' '.join(args)}` ended with {status} in the {self.suite} workshop:\n{words}")


def sources() -> list[Path]:
    """Every file of the work tree that git has or would take, relative to the tree."""
    git = "git", "-c", f"safe.directory={TREE}", "-C", str(TREE)
    listing = command(*git, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    names = sorted({Path(name) for name in listing.split("\0") if name})
    return [name for name in names if (TREE / name).is_symlink() or (TREE / name).is_file()]


def package_sources() -> list[Path]:
    """What a package is built from."""
    return [file for file in sources() if file.parts[0] not in ("tools", "tests", ".ci")]


def packages(suite: str, version_suffix: str = "") -> Path:
    """The folder with the .deb, .changes and .buildinfo built for the suite from the work tree as it is now.

    With a `version_suffix` the version is a higher one: `+1` makes an upgrade of the same files.
    """
    files = package_sources()
    version_suffix += "~bookworm" if suite == "bookworm" else ""
    state = [f"{file} {(TREE / file).lstat().st_mode}".encode() + _content(TREE / file) for file in files]

    def make(target: Path) -> None:
        with Workshop(suite, files) as shop:
            changelog = shop.source / "debian" / "changelog"
            if not changelog.exists():
                raise LabError(f"cannot build the package: {TREE} has no debian/changelog")
            entry = re.sub(r"\(([^)]+)\)", rf"(\g<1>{version_suffix})", changelog.read_text(), count=1)
            changelog.write_text(entry)
            target.mkdir()
            # The tests are not here: tools/test runs them in the same workshop.
            without_tests = {"DEB_BUILD_OPTIONS": "nocheck"}
            shop.run("dpkg-buildpackage", "-us", "-uc", "-b", env=without_tests, log=target / "build.log")
            for product in (shop.root / "build").glob("infoscreen-reboot*_*"):
                shutil.copy2(product, target)

    workshop = workshop_root(suite).name.encode()
    return layer(f"package-{suite}-{digest(workshop, version_suffix.encode(), *state)}", make)


def _content(file: Path) -> bytes:
    return str(file.readlink()).encode() if file.is_symlink() else file.read_bytes()


def build(suite: str, version_suffix: str = "") -> Path:
    """The client's .deb."""
    return _deb("infoscreen-reboot", suite, version_suffix)


def build_controller(version_suffix: str = "") -> Path:
    """The controller's .deb, which is made on one suite only."""
    return _deb("infoscreen-reboot-controller", CONTROLLER_SUITE, version_suffix)


def build_all(suite: str, version_suffix: str = "") -> list[Path]:
    """The .deb of each package that is made on that suite."""
    return sorted(packages(suite, version_suffix).glob("*.deb"))


def _deb(name: str, suite: str, version_suffix: str) -> Path:
    (deb,) = packages(suite, version_suffix).glob(f"{name}_*_all.deb")
    return deb


def main() -> int:
    parser = argparse.ArgumentParser(prog="tools/build", description="Builds the packages for one Debian release.")
    parser.add_argument("--suite", choices=SUITES, default="trixie", help="the release (default: %(default)s)")
    parser.add_argument("--into", type=Path, default=Path(), help="where to put them (default: the current folder)")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    try:
        ensure_host()
        for deb in build_all(options.suite):
            print(shutil.copy(deb, options.into))
    except (LabError, OSError) as error:
        sys.exit(f"tools/build: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
