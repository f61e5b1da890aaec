"""Debian roots of each suite, made once and cached as the layers that workshops and machines stand on."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import re
import shutil
import subprocess
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tools.lab.scratch import CACHE, LabError, Scratch, command, kill_group, locked, unmount_below

# What takes time is said here, for whoever is waiting.
log = logging.getLogger("lab")

MIRROR = os.environ.get("INFOSCREEN_MIRROR", "http://deb.debian.org/debian").rstrip("/")
KEYS = "signed-by=/usr/share/keyrings/debian-archive-keyring.gpg"
RUFF = "0.8.6"
ATHERIS = "3.0.0"
# What asks every operation of the controller's API; it runs in a process of its own, with modules of its own.
SCHEMATHESIS = (
    "schemathesis==4.32.5 anyio==4.16.0 certifi==2026.10.19.post1 charset-normalizer==3.5.3 click==8.5.1"
    " graphql-core==3.3.2 harfile==0.6.0 hypothesis==6.170.17 hypothesis-graphql==0.13.5 idna==3.20 iniconfig==2.3.1"
    " jsonschema_rs==0.60.3 markdown-it-py==4.3.0 MarkupSafe==3.0.4 mdurl==0.1.2 packaging==26.4 pluggy==1.7.0"
    " Pygments==2.21.0 pyrate-limiter==4.5.1 pytest==9.2.0 PyYAML==6.0.4 requests==2.34.2 rich==15.0.0"
    " sortedcontainers==2.4.0 typing_extensions==4.16.0 urllib3==2.8.0 Werkzeug==3.1.9"
)
# What tools/bench measures us against, with the versions of all that its speed and memory hang on.
PEERS = {
    "systemctl-mqtt": "systemctl-mqtt==3.0.0 aiomqtt==2.5.1 jeepney==0.9.0 paho-mqtt==2.2.0",
    "lnxlink": "lnxlink==2026.10.0 aiohttp==3.14.5 jeepney==0.9.0 paho-mqtt==2.2.0 psutil==7.2.2 requests==2.34.2",
}
# What tools/demo records itself with.
RECORDER = "termtosvg==1.1.0 lxml==6.1.3 pyte==0.8.2 wcwidth==0.9.4"
PYTHON = {"bookworm": "3.11", "trixie": "3.13"}
UNUSED_LAYERS_GO_AFTER_S = 3 * 86400

WORKSHOP_PACKAGES = (
    "build-essential dbus debhelper dh-python dpkg-dev fakeroot libxml2-utils lintian man-db mandoc mosquitto"
    " mosquitto-clients openssl polkitd python3 python3-all python3-cryptography python3-dbus-next"
    " python3-dbusmock python3-hypothesis python3-jsonschema python3-paho-mqtt python3-pytest"
    " python3-setuptools python3-stdeb python3-systemd python3-yaml strace systemd"
).split()
# The controller runs on trixie only.
CONTROLLER_PACKAGES = (
    "apprise curl jq libjs-htmx nginx postgresql-17 python3-alembic python3-argon2 python3-authlib python3-dateutil"
    " python3-fastapi python3-fastjsonschema python3-httpx python3-icalendar python3-jinja2 python3-prometheus-client"
    " python3-psycopg python3-psycopg-c python3-recurring-ical-events python3-rich python3-segno python3-sqlalchemy"
    " python3-sqlalchemy-ext python3-uvicorn snmp snmpd"
).split()
WORKSHOP_HOOKS = (
    'chroot "$1" useradd --create-home --uid 1000 builder',
    'install -d -o 1000 -g 1000 "$1/build"',
)
MACHINE_PACKAGES = "dbus systemd systemd-sysv".split()
MACHINE_HOOKS = (
    # They would fetch or write something at a time of their own.
    'chroot "$1" systemctl mask --quiet apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer',
    # A person without rights.
    'chroot "$1" useradd --create-home visitor',
    'mkdir -p "$1/var/log/journal"',
)
INSTALL = "apt-get -qy --no-install-recommends install"
BENCH_PACKAGES = "ansible-core autopkgtest cloud-init faketime openssh-client piuparts prometheus reprotest"
# python3-apt is what Ansible wants, apt-utils and dpkg-dev what autopkgtest wants, mosquitto and snmp our tests.
TESTBED = f"""\
{INSTALL} apt-utils dpkg-dev openssh-server python3 python3-apt
{INSTALL} --download-only mosquitto mosquitto-clients snmp snmpd
mkdir /repo
mv /var/cache/apt/archives/*.deb /repo
cd /repo
apt-ftparchive packages . > Packages
rm -rf /etc/apt/sources.list.d/* /var/lib/apt/lists/*
echo 'deb [trusted=yes] file:/repo ./' > /etc/apt/sources.list
apt-get -q update
"""
# Brokers that Debian has beside mosquitto. None is started: the tests do that, each with a configuration of its own.
# The names are for a cluster of three, as which one broker can be reached.
BROKERS = f"""\
printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
apt-get -q update
{INSTALL} ejabberd rabbitmq-server
for node in 1 2 3; do echo "127.0.0.$node node$node broker.example" >> /etc/hosts; done
apt-get clean
rm -rf /var/lib/apt/lists/*
"""
# A broker for node. npm is gone again afterwards: it is as large as all the rest.
AEDES = "aedes@1.2.0"
AEDES_INSTALL = f"""\
apt-get -q update
{INSTALL} nodejs
{INSTALL} npm
cd /opt
npm --cafile /var/tmp/given/{{authorities}} --no-audit --no-fund --ignore-scripts install {AEDES}
apt-get -qy purge --autoremove npm
apt-get clean
rm -rf /var/lib/apt/lists/* /root/.npm
"""
# Those that this host trusts: npm brings a list of its own.
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
# A browser, what drives it, one font that has the signs of a page, and what reads the codes in its pictures. npm goes
# again with the node that it brought.
AXE = "axe-core-4.14.1"
AXE_SHA512 = (
    "1477dafa598d8d065f273d6af302aa203c02e83131707b7fa648cd41bd3d6b73"
    "4f8c22a0dab86ee6a6f64b8afbe804b214d36db85a2826965edfb3a0b9d546b5"
)
BROWSER = f"""\
apt-get -q update
{INSTALL} chromium chromium-driver fontconfig fonts-dejavu-core python3-selenium zbar-tools
{INSTALL} dbconfig-sqlite3 glewlwyd
{INSTALL} npm
mkdir /opt/axe
cd /opt/axe
npm --cafile /var/tmp/given/{AUTHORITIES.name} pack axe-core@{AXE.rpartition("-")[2]}
echo "{AXE_SHA512}  {AXE}.tgz" | sha512sum --check
tar -x -f {AXE}.tgz --strip-components=1 package/axe.min.js
rm {AXE}.tgz
apt-get -qy purge --autoremove npm
apt-get clean
rm -rf /var/lib/apt/lists/* /root/.npm
"""
# A broker in Python; it runs with modules of its own.
AMQTT = (
    "amqtt==0.12.1 annotated-doc==0.0.7 annotated-types==0.8.0 argon2-cffi==25.1.0 argon2-cffi-bindings==26.2.0"
    " cffi==2.1.1 dacite==1.9.2 markdown-it-py==4.3.0 mdurl==0.1.2 psutil==7.2.2 pwdlib==0.3.1 pycparser==3.12"
    " pydantic==2.14.4 pydantic-core==2.50.5 Pygments==2.21.0 PyYAML==6.0.4 rich==15.0.0 shellingham==1.5.4"
    " six==1.17.0 transitions==0.9.3 typer==0.29.2 typing_extensions==4.16.0 typing-inspection==0.4.5"
    " websockets==15.0.1"
)
# What our package wants is there already, so that its own upgrade fetches nothing.
UPGRADE = """\
apt-get -qy satisfy '{depends}'
sed -i s/bookworm/trixie/g /etc/apt/sources.list
apt-get -q update
apt-get -qy dist-upgrade --download-only
"""
# What a maintainer's builder has; recommended packages are not what a package may count on.
BUILD_DEP = """\
apt-get -q update
mkdir -p /var/tmp/tree/debian
cat > /var/tmp/tree/debian/control <<'END'
{source}
END
apt-get -qy --no-install-recommends --build-profiles={profile} build-dep /var/tmp/tree
rm -r /var/tmp/tree
"""
# A machine with a kernel of its own and the network manager that Raspberry Pi OS has.
VM_PACKAGES = [
    *MACHINE_PACKAGES,
    *("initramfs-tools", "linux-image-amd64", "lz4", "network-manager", "systemd-timesyncd"),
]
# What its USB disk needs before there is a root; udev loads the rest from there.
INITRAMFS_MODULES = ("xhci_pci", "uas", "sd_mod", "ext4")
# Nothing that is tested has to do with them, and without KVM each takes its part of a second of every boot.
UNUSED_UNITS = (
    "cron.service dev-hugepages.mount dev-mqueue.mount e2scrub_all.timer e2scrub_reap.service fstrim.timer"
    " getty@.service logrotate.timer man-db.timer modprobe@.service proc-sys-fs-binfmt_misc.automount"
    " serial-getty@.service sys-fs-fuse-connections.mount sys-kernel-config.mount sys-kernel-debug.mount"
    " sys-kernel-tracing.mount systemd-binfmt.service"
)
VM_HOOKS = (
    *MACHINE_HOOKS,
    # Drivers of what no virtual machine has: half of the image.
    'cd "$1"/usr/lib/modules/*/kernel && rm -rf sound drivers/gpu drivers/infiniband drivers/media drivers/net/wireless'
    " drivers/net/ethernet drivers/iio drivers/staging",
    # The machine has q35's watchdog beside the one that is tested. A Pi has one.
    'rm "$1"/usr/lib/modules/*/kernel/drivers/watchdog/iTCO_*',
    # What is packed, an emulated processor unpacks at every boot. No device here needs udev's list of hardware.
    'find "$1"/usr/lib/modules -name "*.ko.xz" -exec unxz {} +',
    'rm "$1"/usr/lib/udev/hwdb.bin',
    'cd "$1"/etc/initramfs-tools && sed -i "s/^MODULES=.*/MODULES=list/; s/^COMPRESS=.*/COMPRESS=lz4/" initramfs.conf'
    f" && printf '%s\\n' {' '.join(INITRAMFS_MODULES)} >> modules",
    'chroot "$1" sh -c "depmod $(ls "$1"/usr/lib/modules) && update-initramfs -u -k all"',
    f'chroot "$1" systemctl mask --quiet {UNUSED_UNITS}',
    'rm -rf "$1"/usr/share/doc "$1"/usr/share/locale',
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a root is made of; a changed recipe is another root."""

    kind: str
    suite: str
    variant: str
    packages: tuple[str, ...]
    hooks: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.suite}-{digest(json.dumps(asdict(self)).encode(), MIRROR.encode(), KEYS.encode())}"

    def make(self, target: Path) -> None:
        security = re.sub(r"debian$", "debian-security", MIRROR)
        command(
            *("mmdebstrap", "--mode=root", "--format=directory", f"--variant={self.variant}"),
            f"--include={','.join(self.packages)}",
            *(f"--aptopt={line}" for line in _apt_proxies()),
            *(f"--customize-hook={hook}" for hook in self.hooks),
            *(self.suite, target),
            f"deb [{KEYS}] {MIRROR} {self.suite} main",
            f"deb [{KEYS}] {MIRROR} {self.suite}-updates main",
            f"deb [{KEYS}] {security} {self.suite}-security main",
        )


def _apt_proxies() -> list[str]:
    """A mirror behind the host's proxy is behind it for the roots too."""
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True).stdout
    return re.findall(r"^Acquire::https?::Proxy(?:::\S+)? .*;$", dump, re.MULTILINE)


def digest(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]


def layer(name: str, make: Callable[[Path], None]) -> Path:
    """The cached directory of that name; made once, by whoever asks first, and never half."""
    path = CACHE / "layers" / name
    with locked(name):
        if not path.exists():
            started = time.monotonic()
            log.info("making %s", name)
            temporary = path.with_name(f".{name}")
            unmount_below(temporary)  # whoever began with it was killed
            shutil.rmtree(temporary, ignore_errors=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            make(temporary)
            temporary.rename(path)
            log.info("made %s in %.1f s", name, time.monotonic() - started)
            _forget_unused(name)
        os.utime(path)
    return path


def _forget_unused(name: str) -> None:
    """The roots of older recipes and packages would add up to gigabytes."""
    for path in (CACHE / "layers").glob(name.rpartition("-")[0] + "-*"):
        if time.time() - path.stat().st_mtime > UNUSED_LAYERS_GO_AFTER_S:
            shutil.rmtree(path, ignore_errors=True)


def machine_root(suite: str) -> Path:
    """A plain Debian with systemd, as a machine has it before anything of ours is installed."""
    recipe = Recipe("machine", suite, "important", tuple(MACHINE_PACKAGES), MACHINE_HOOKS)
    return layer(recipe.name, recipe.make)


def vm_root(suite: str) -> Path:
    """The same with Debian's own kernel, for a virtual machine."""
    recipe = Recipe("vm", suite, "important", tuple(VM_PACKAGES), VM_HOOKS)
    return layer(recipe.name, recipe.make)


def workshop_root(suite: str) -> Path:
    """Every build and test tool of the suite; the linters are those of trixie."""
    packages, hooks = [*WORKSHOP_PACKAGES], [*WORKSHOP_HOOKS]
    if suite == "trixie":
        packages += ["mypy", *CONTROLLER_PACKAGES]
        hooks.append(f"copy-in {_ruff()} /usr/local/bin")
        hooks.append(f"copy-in {_schemathesis(suite)} /opt")
    if platform.machine() == "x86_64":  # there is no wheel for others: tests/fuzz does without, and says so
        hooks.append(f"copy-in {_atheris(suite)} /usr/local/lib/python{PYTHON[suite]}/dist-packages")
    recipe = Recipe("workshop", suite, "minbase", tuple(packages), tuple(hooks))
    return layer(recipe.name, recipe.make)


def layers_of_builder(suite: str, control: str, profile: str = "") -> list[Path]:
    """A root with build-essential, what `apt-get build-dep` installs for that debian/control, and nothing else."""
    recipe = Recipe("builder", suite, "minbase", ("build-essential",), WORKSHOP_HOOKS)
    base = layer(recipe.name, recipe.make)
    script = BUILD_DEP.format(source=control.partition("\n\n")[0], profile=profile)
    return [grown(f"build-dep-{suite}-{digest(base.name.encode(), script.encode())}", [base], script), base]


def _ruff() -> Path:
    """Debian has no ruff; its wheel carries the program."""

    def make(target: Path) -> None:
        with zipfile.ZipFile(_wheel(target, f"ruff=={RUFF}")) as archive:
            (target / "ruff").write_bytes(archive.read(f"ruff-{RUFF}.data/scripts/ruff"))
        (target / "ruff").chmod(0o755)

    return layer(f"ruff-{platform.machine()}-{RUFF}", make) / "ruff"


def _atheris(suite: str) -> Path:
    """The fuzzer that is guided by coverage, as a Python package; Debian has none for Python."""

    def make(target: Path) -> None:
        wheel = _wheel(target, f"atheris=={ATHERIS}", f"--python-version={PYTHON[suite]}")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(target, [name for name in archive.namelist() if name.startswith("atheris/")])
        wheel.unlink()

    return layer(f"atheris-{platform.machine()}-{suite}-{ATHERIS}", make) / "atheris"


def _schemathesis(suite: str) -> Path:
    """Debian has none. It brings other versions of what Debian has: so it stands in a folder of its own."""

    def make(target: Path) -> None:
        pip = "/usr/bin/python3", "-m", "pip", "install", "--quiet", "--no-compile", "--only-binary=:all:", "--no-deps"
        place = "--target", target / "schemathesis", "--implementation=cp", "--python-version", PYTHON[suite]
        command(*pip, *place, *SCHEMATHESIS.split())

    name = f"schemathesis-{platform.machine()}-{suite}-{digest(SCHEMATHESIS.encode())}"
    return layer(name, make) / "schemathesis"


def _wheel(target: Path, *wanted: str) -> Path:
    pip = "/usr/bin/python3", "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"
    command(*pip, "--dest", target, *wanted)
    (wheel,) = target.glob("*.whl")
    return wheel


def peers(suite: str) -> list[Path]:
    """The layers with each of PEERS under /opt/peers, compiled by the suite's Python as Debian's own modules are."""

    def make(target: Path) -> None:
        pip = "/usr/bin/python3", "-m", "pip", "install", "--quiet", "--no-compile", "--only-binary=:all:"
        for name, wanted in PEERS.items():
            place = "--target", target / "opt/peers" / name, "--implementation=cp", "--python-version", PYTHON[suite]
            command(*pip, *place, *wanted.split())

    name = f"{suite}-{platform.machine()}-{digest(json.dumps(PEERS).encode())}"
    files = layer(f"peers-{name}", make)
    base = workshop_root(suite)
    compiled = digest(base.name.encode(), name.encode())
    script = "python3 -m compileall -q /opt/peers || true"
    return [grown(f"compiled-{suite}-{compiled}", [files, base], script), files]


def recorder() -> Path:
    """RECORDER for the Python of this host, as a directory to put on its path."""

    def make(target: Path) -> None:
        pip = "/usr/bin/python3", "-m", "pip", "install", "--quiet", "--no-compile", "--only-binary=:all:"
        command(*pip, "--target", target, *RECORDER.split())

    return layer(f"recorder-{platform.machine()}-{platform.python_version()}-{digest(RECORDER.encode())}", make)


def grown(name: str, layers: Sequence[Path], script: str, given: Sequence[Path] = ()) -> Path:
    """The layer of what root's shell wrote on those layers, with the host's network; `given` lies in /var/tmp/given."""

    def make(target: Path) -> None:
        with Scratch(name, layers) as scratch:
            handed = scratch.root / "var/tmp/given"
            handed.mkdir()
            for file in given:
                shutil.copy(file, handed)
            log = scratch.directory / "log"
            with log.open("wb") as output:
                quiet = "--setenv=DEBIAN_FRONTEND=noninteractive"
                inside = scratch.nspawn("--as-pid2", "--resolv-conf=bind-host", quiet, "sh", "-ec", script)
                status = scratch.popen(*inside, output=output).wait()
            if status != 0:
                words = log.read_text(errors="replace")[-3000:]
                raise LabError(f"cannot make {name}, is the mirror reachable?\n{words}")
            shutil.rmtree(handed)
            kill_group(scratch.cgroup)
            scratch.keep_as(target)

    return layer(name, make)


def larder(suite: str, *debs: Path, base: Path | None = None) -> Path:
    """The layer with apt's lists and what installing `debs` will fetch: a machine has no way to any network."""
    base = base or machine_root(suite)
    depends = [command("dpkg-deb", "-f", deb, "Depends", "Recommends").encode() for deb in debs]
    script = "apt-get -q update; apt-get -qy install --download-only /var/tmp/given/*.deb"
    name = f"larder-{suite}-{digest(base.name.encode(), *depends)}"
    return grown(name, [base], script, debs)


def layers_of_upgrade(deb: Path) -> list[Path]:
    """A bookworm machine whose apt has fetched all of trixie that a dist-upgrade wants; `deb` is what it will have."""
    base = machine_root("bookworm")
    food = larder("bookworm", deb, base=base)
    depends = ", ".join(command("dpkg-deb", "-f", deb, field).strip() for field in ("Depends", "Recommends"))
    script = UPGRADE.format(depends=depends)
    name = f"upgrade-bookworm-{digest(food.name.encode(), script.encode())}"
    return [grown(name, [food, base], script), food, base]


def layer_of_dbus_broker(suite: str) -> Path:
    """The bus that Fedora and Arch have, in the place of dbus-daemon from the next boot; dpkg knows nothing of it."""
    base = machine_root(suite)
    fetch = "apt-get -q update; cd /var/cache/apt/archives; apt-get -qy install --download-only dbus-broker"
    # bookworm's package has files in /lib, which is a link there.
    unpack = "for deb in *.deb; do dpkg-deb --fsys-tarfile $deb | tar -x --keep-directory-symlink -C /; done"
    script = f"{fetch}; {unpack}; systemctl enable dbus-broker.service; rm -rf *.deb /var/lib/apt/lists/*; touch /"
    return grown(f"dbus-broker-{suite}-{digest(base.name.encode(), script.encode())}", [base], script)


def layer_of_faketime(suite: str) -> Path:
    """The library that lets a process see another wall clock; dpkg does not know that it is there."""
    base = machine_root(suite)
    fetch = "apt-get -q update; cd /var/tmp; apt-get -q download libfaketime; dpkg-deb -x libfaketime_*.deb /"
    # dpkg-deb gives the root directory the package's age.
    script = f"{fetch}; rm libfaketime_*.deb; rm -rf /var/lib/apt/lists/*; touch /"
    return grown(f"faketime-{suite}-{digest(base.name.encode(), script.encode())}", [base], script)


def layers_of_testbed(suite: str, *debs: Path) -> list[Path]:
    """A machine that others drive by ssh, and whose apt is content without a network: all it fetches lies in /repo."""
    below = [larder(suite, *debs), machine_root(suite)]
    name = f"testbed-{suite}-{digest(below[0].name.encode(), TESTBED.encode())}"
    return [grown(name, below, TESTBED), *below]


def layers_of_bench(suite: str) -> list[Path]:
    """The suite's workshop with its tools that judge a package and those that manage a fleet."""
    base, script = workshop_root(suite), f"apt-get -q update; {INSTALL} {BENCH_PACKAGES}; apt-get clean"
    return [grown(f"bench-{suite}-{digest(base.name.encode(), script.encode())}", [base], script), base]


def layers_of_brokers(suite: str) -> list[Path]:
    """The suite's workshop with brokers in it: Debian's own, and on trixie those of npm and PyPI."""
    base = workshop_root(suite)
    debian = grown(f"brokers-{suite}-{digest(base.name.encode(), BROKERS.encode())}", [base], BROKERS)
    if suite != "trixie":
        return [debian, base]
    script = AEDES_INSTALL.format(authorities=AUTHORITIES.name)
    aedes = grown(f"aedes-{digest(base.name.encode(), script.encode())}", [base], script, [AUTHORITIES])
    return [debian, aedes, _amqtt(suite), base]


def layers_of_browser(suite: str) -> list[Path]:
    """The suite's workshop with chromium and its driver, axe, which judges how a page can be read, and glewlwyd.

    The last one is an OpenID provider.
    """
    base = workshop_root(suite)
    name = f"browser-{suite}-{digest(base.name.encode(), BROWSER.encode())}"
    return [grown(name, [base], BROWSER, [AUTHORITIES]), base]


def _amqtt(suite: str) -> Path:
    def make(target: Path) -> None:
        pip = "/usr/bin/python3", "-m", "pip", "install", "--quiet", "--no-compile", "--only-binary=:all:", "--no-deps"
        place = "--target", target / "opt/amqtt", "--implementation=cp", "--python-version", PYTHON[suite]
        command(*pip, *place, *AMQTT.split())

    return layer(f"amqtt-{platform.machine()}-{suite}-{digest(AMQTT.encode())}", make)
