"""What Debian asks of any package: its own tests on an installed system, no leftovers, the same build everywhere."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from tools.lab import tree
from tools.lab.debian import SSH_KEY, Bench
from tools.lab.machine import Machine
from tools.lab.roots import layers_of_bench, layers_of_testbed
from tools.lab.scratch import Scratch

# They need root or FUSE: who builds, the order of files in a folder, the name of the host.
NOT_VARIED = "user_group", "fileordering", "domain_host"


def test_autopkgtest_passes_with_a_reboot_that_the_agent_makes(
    bench: Bench, bare_testbed: Machine, suite: str, debs: list[Path]
) -> None:
    # Where the controller is not built, its test has nothing to install.
    tests = ["smoke", "reboot.py", *(["controller.py"] if suite == tree.CONTROLLER_SUITE else [])]
    server = "ssh", "--hostname=127.0.0.1", "--login=root", f"--identity={SSH_KEY}", "--reboot"
    told = bench.run_as_root(
        *("autopkgtest", "--no-built-binaries", *map(bench.take, debs), "/build/src"),
        *(f"--test-name={name}" for name in tests),
        *("--", *server, "--capability=isolation-container"),
        machine=bare_testbed,
    )
    results = re.findall(r"^(\S+) +(PASS|FAIL|SKIP|FLAKY)", told.partition("@@@ summary")[2], re.MULTILINE)
    assert results == [(name, "PASS") for name in tests]
    assert len(bare_testbed.lives) == 2


def test_piuparts_finds_nothing_left_behind_by_install_upgrade_and_purge(
    bench: Bench, suite: str, debs: list[Path]
) -> None:
    newer = map(bench.take, tree.build_all(suite, "+1"))
    with Scratch(f"chroot-{suite}", layers_of_testbed(suite, *debs)) as chroot:
        for deb in debs:
            shutil.copy(deb, chroot.root / "repo")
        bench.run_as_root("sh", "-ec", "cd /base/repo && apt-ftparchive packages . > Packages", options=bind(chroot))
        told = bench.run_as_root(
            *("piuparts", "--existing-chroot=/base", "--keep-sources-list", f"--distribution={suite}"),
            # polkitd of bookworm makes systemd's directory its own and does not give it back.
            "--ignore=/usr/share/polkit-1/rules.d/",
            *("--no-eatmydata", "--warn-on-others", "--log-level=info", *newer),
            options=bind(chroot),
        )
    assert "PASS: Installation and purging test." in told
    assert "PASS: Installation, upgrade and purging tests." in told


def bind(chroot: Scratch) -> list[str]:
    return [f"--bind={chroot.root}:/base"]


def test_a_build_elsewhere_and_at_another_time_gives_the_same_package(suite: str) -> None:
    build = "dpkg-buildpackage --build=binary --no-sign"
    varied = f"--variations=+all,{','.join(f'-{name}' for name in NOT_VARIED)}"
    argv = "reprotest", varied, f"--build-command={build}", ".", "../*.deb", "--", "null"
    with tree.Workshop(suite, tree.package_sources(), layers_of_bench(suite)) as shop:
        log = shop.directory / "log"
        shop.run(*argv, env={"DEB_BUILD_OPTIONS": "nocheck"}, log=log)
        told = log.read_text()
    assert "Reproduction successful" in told
