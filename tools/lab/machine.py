"""A client as the fleet has it, in a container: Debian with our package on it, and its broker."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from tools.lab.container import POWER_CUT, POWERED_OFF, REBOOTED, Container
from tools.lab.mosquitto import Broker
from tools.lab.roots import digest, larder, layer, layers_of_testbed, machine_root
from tools.lab.scratch import command
from tools.lab.screen import AGENT, CLOCK_FLAG, CLOCK_SNIPPET, HELPER, Client, new_command, timestamp

__all__ = [
    "AGENT",
    "HELPER",
    "POWERED_OFF",
    "POWER_CUT",
    "REBOOTED",
    "Machine",
    "bare_machine",
    "new_command",
    "timestamp",
]


class Machine(Container, Client):
    """Installed by apt before it is first switched on; nothing is configured yet."""

    def __init__(self, suite: str, deb: Path, auto_restart: bool = False, *, layers: Sequence[Path] = ()) -> None:
        Container.__init__(self, suite, layers or installed_layers(suite, deb), auto_restart)
        Client.__init__(self, Broker(self.scratch))

    def set_clock_synchronised(self, now: bool = True, at_boot: bool = True) -> None:
        """Says what timesyncd would: that the clock is (not) synchronised, now and after each boot.

        A container has its host's clock, and timedated would tell the host's opinion of it: it is masked here, so
        that the flag alone speaks.
        """
        mask = self.root / "etc/systemd/system/systemd-timedated.service"
        if not mask.is_symlink():
            mask.symlink_to("/dev/null")
        self.write(CLOCK_SNIPPET, f"f {CLOCK_FLAG} 0644 root root -\n" if at_boot else "")
        if self.is_running:
            flag = self.path(CLOCK_FLAG)
            flag.parent.mkdir(parents=True, exist_ok=True)
            flag.touch() if now else flag.unlink(missing_ok=True)

    def start_broker_for_others(self) -> None:
        """Its broker, also for the machines to which connect() leads; before it is booted."""
        text = self.broker.configuration.read_text()
        self.broker.configuration.write_text(text.replace("127.0.0.1", "0.0.0.0"))
        self.broker.start()
        # Debian's own would want the same port.
        (self.root / "etc/systemd/system/mosquitto.service").symlink_to("/dev/null")

    def drop_in(self, name: str, *lines: str) -> None:
        """An administrator's drop-in for a unit, in force from the next start."""
        self.write(f"/etc/systemd/system/{name}.d/test.conf", "\n".join(["[Service]", *lines, ""]))
        if self.is_running:
            self.run("systemctl", "daemon-reload")

    def install(self, *debs: Path, others: Sequence[str] = ()) -> str:
        """Installs packages on the running machine, and Debian's own by their names; what apt said."""
        for deb in debs:
            shutil.copy(deb, self.root / "var/tmp" / deb.name)
        return self.apt("install", *(f"/var/tmp/{deb.name}" for deb in debs), *others)

    def apt(self, *args: str) -> str:
        return self.run("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qy", *args, timeout_s=180)


def bare_machine(suite: str, deb: Path, base: Path | None = None) -> Machine:
    """A plain Debian that has all that installing `deb` will fetch, for it has no network."""
    base = base or machine_root(suite)
    return Machine(suite, deb, layers=[larder(suite, deb, base=base), base])


def furnished_layers(suite: str, deb: Path, base: Path | None = None) -> list[Path]:
    """The same after apt has installed what the package wants, which takes it most of an install; nothing of ours."""
    base = base or machine_root(suite)
    return _furnished("furnished", suite, deb, [larder(suite, deb, base=base), base])


def furnished_layers_of_testbed(suite: str, deb: Path, debs: Sequence[Path]) -> list[Path]:
    """So for a machine that others drive by ssh, on which all of `debs` can be installed."""
    return _furnished("furnished-testbed", suite, deb, layers_of_testbed(suite, *debs))


def _furnished(kind: str, suite: str, deb: Path, below: Sequence[Path]) -> list[Path]:
    wanted = [command("dpkg-deb", "-f", deb, field).strip() for field in ("Depends", "Recommends")]

    def furnish(machine: Machine) -> None:
        for packages in wanted:
            machine.apt("satisfy", packages)

    name = f"{kind}-{suite}-{digest(below[0].name.encode(), *(packages.encode() for packages in wanted))}"
    return _worked_on(name, suite, deb, below, furnish)


def installed_layers(suite: str, deb: Path, base: Path | None = None) -> list[Path]:
    """A machine's layers after apt has installed the package while real systemd was running."""
    return _installed("installed", suite, [deb], furnished_layers(suite, deb, base))


def layers_of_server(suite: str, debs: Sequence[Path]) -> list[Path]:
    """The same with each of these packages, mosquitto, and what plays a switch: a machine that others reach."""
    others = "mosquitto", "mosquitto-clients", "snmp", "snmpd"
    return _installed("server", suite, debs, layers_of_testbed(suite, *debs), *others)


def _installed(kind: str, suite: str, debs: Sequence[Path], below: Sequence[Path], *others: str) -> list[Path]:
    def install(machine: Machine) -> None:
        machine.install(*debs, others=others)
        for deb in debs:
            (machine.root / "var/tmp" / deb.name).unlink()

    content = *(deb.read_bytes() for deb in debs), below[0].name.encode(), *(name.encode() for name in others)
    return _worked_on(f"{kind}-{suite}-{digest(*content)}", suite, debs[0], below, install)


def _worked_on(name: str, suite: str, deb: Path, below: Sequence[Path], work: Callable[[Machine], None]) -> list[Path]:
    """These layers and, on them, the one of what that work leaves on a machine with real systemd."""

    def make(target: Path) -> None:
        with Machine(suite, deb, layers=below) as machine:
            machine.boot()
            machine.wait_booted()
            work(machine)
            machine.stop()
            shutil.rmtree(machine.root / "var/log/journal" / machine.read("/etc/machine-id").strip())
            machine.scratch.keep_as(target)

    return [layer(name, make), *below]
