"""A virtual machine with Debian's own kernel, its system on a USB disk, a hardware watchdog, and the package on it."""

from __future__ import annotations

import base64
import calendar
import itertools
import json
import shlex
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tools.lab.machine import Machine, installed_layers
from tools.lab.mosquitto import Broker
from tools.lab.patience import MOST, Patience
from tools.lab.roots import digest, layer, vm_root
from tools.lab.scratch import LabError, Scratch, command
from tools.lab.screen import Client, timestamp

LABEL, PORT = "infoscreen", "lab"
# QEMU's user network leads it to the loopback of the network that QEMU itself is in.
HOST = "10.0.2.2"
# On the disk from the beginning: for an emulated processor, a start of the agent is half a minute of work.
CONFIGURED = {"MQTT_BROKER": HOST, "MQTT_TLS": "no", "CLIENT_UUID": "4f0c7a52-6f5e-4f0e-9f5b-0d1c2e3a4b5d"}
DISK_SIZE = "2G"
# Root's shell for us, one command a line and encoded, so that no byte of it means anything to the wire.
SHELL = """\
# Not by a device unit: without KVM the driver may come later than a device is waited for.
until [ -e /dev/virtio-ports/lab ]; do sleep 0.2; done
exec 3<>/dev/virtio-ports/lab
echo "ready $(cat /proc/sys/kernel/random/boot_id)" >&3
while read -r number script <&3; do
    bash -c "$(base64 -d <<<"$script")" >/run/lab-output 2>&1 </dev/null 3>&-
    echo "$number $? $(base64 -w0 /run/lab-output)" >&3
done
"""
# At every boot udev has the kernel announce all that is there once more: 466 things, most of them terminals, drivers,
# and parts of the processor. Here it is what our rules and the system need; what comes later is announced anyway.
ANNOUNCED = ("block", "net", "pci", "rtc", "usb", "virtio", "virtio-ports", "watchdog")
ANNOUNCE = f"udevadm trigger --action=add {' '.join(f'--subsystem-match={name}' for name in ANNOUNCED)}"
FILES = {
    "/etc/fstab": f"LABEL={LABEL} / ext4 errors=remount-ro 0 1\n",
    "/usr/local/sbin/lab-shell": SHELL,
    # The host's loopback, as the broker; nobody answers there before a test starts a time server.
    "/etc/systemd/timesyncd.conf.d/lab.conf": f"[Time]\nNTP={HOST}\n",
    "/etc/systemd/system/systemd-udev-trigger.service.d/lab.conf": f"[Service]\nExecStart=\nExecStart={ANNOUNCE}\n",
    "/etc/systemd/system/lab-shell.service": """\
[Service]
ExecStart=/bin/bash /usr/local/sbin/lab-shell
[Install]
WantedBy=multi-user.target
""",
}
# Its time goes by instructions, 4 ns each, and while it has none to carry out, by the host's time. So a busy host makes
# it late for us, and not for itself: no timeout in it comes early, and what it measures is comparable.
# A plain processor: for what a newer one has the kernel would load modules, and this is all emulated.
# The disk's changes last as long as the process: over the guest's reboots, and no longer.
HARDWARE = """\
-name guest -nodefaults -machine q35,sata=off,smbus=off,i8042=off -accel tcg,thread=single -cpu qemu64 -m 768
-display none -vga none
-icount shift=2,sleep=on -rtc clock=vm
-drive file={image}/disk,format=raw,if=none,id=ssd,snapshot=on,cache=unsafe
-device qemu-xhci -device usb-uas,id=uas -device scsi-hd,bus=uas.0,scsi-id=0,lun=0,drive=ssd
-blockdev driver=null-co,node-name=other,size=67108864,read-zeroes=on
-device virtio-scsi-pci,id=scsi -device scsi-hd,bus=scsi.0,drive=other
-device i6300esb -watchdog-action reset
-device virtio-rng-pci -netdev user,id=net -device virtio-net-pci,netdev=net,id=card
-kernel {image}/kernel -initrd {image}/initrd
-serial file:{directory}/console.log
-device virtio-serial-pci -chardev socket,id=lab,path={directory}/lab -device virtserialport,chardev=lab,name=lab
-chardev socket,id=qmp,path={directory}/qmp -mon chardev=qmp,mode=control
"""
KERNEL_COMMAND_LINE = f"root=LABEL={LABEL} ro quiet console=ttyS0 8250.nr_uarts=1"
CLOCK_CHIP = {"path": "/machine", "property": "rtc-time"}


@dataclass(slots=True)
class Boot:
    """From power or reset on: `reset_at` as VirtualMachine.now_s()."""

    reset_at: float
    by_watchdog: bool
    boot_id: str = ""


@dataclass(frozen=True, slots=True)
class Back:
    """When the agent was online, as VirtualMachine.now_s(), and how long after the reset."""

    at: float
    boot_s: float


class VirtualMachine(Client):
    """Off at first, and configured. Its changes are forgotten with it; its only network is the way to its broker."""

    BROKER_HOST = HOST

    def __init__(self, suite: str, deb: Path) -> None:
        self.boots: list[Boot] = []
        self.image = image(suite, deb)
        self.scratch = Scratch(f"vm-{suite}", [self.image])
        self._turn = threading.Condition()
        self._is_watchdog = False
        self._console = ""
        self._replies: dict[int, tuple[int, str]] = {}
        self._answers: dict[int, Any] = {}
        self._numbers = itertools.count(1)
        # The number of what QEMU was asked at a reset, until it has answered.
        self._reset_question = 0
        self._sockets: list[socket.socket] = []
        self._process: subprocess.Popen[bytes] | None = None
        try:
            command("ip", "netns", "add", self.scratch.name)
            command("ip", "-n", self.scratch.name, "link", "set", "lo", "up")
            super().__init__(Broker(self.scratch))
            self.uuid, self.settings = CONFIGURED["CLIENT_UUID"], dict(CONFIGURED)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leaves nothing: no process, network or file."""
        self.console()
        self.scratch.close()
        for connection in self._sockets:
            connection.close()

    # Power.

    def boot(self) -> None:
        """Switches it on; wait_up() tells when it is up."""
        hardware = HARDWARE.format(image=self.image, directory=self.scratch.directory).split()
        argv = ["nsenter", f"--net=/run/netns/{self.scratch.name}", "qemu-system-x86_64", *hardware]
        with Door(self.scratch.directory / "qmp") as qmp, Door(self.scratch.directory / PORT) as shell:
            with (self.scratch.directory / "qemu.log").open("wb") as output:
                temporary = {"TMPDIR": str(self.scratch.directory)}
                self._process = self.scratch.popen(*argv, "-append", KERNEL_COMMAND_LINE, env=temporary, output=output)
            try:
                self._sockets = [door.accept() for door in (qmp, shell)]
            except TimeoutError:
                words = (self.scratch.directory / "qemu.log").read_text(errors="replace")
                raise LabError(f"cannot start QEMU:\n{words}") from None
        self._qmp, self._shell = self._sockets
        for connection, on_line in ((self._qmp, self._on_qmp), (self._shell, self._on_shell)):
            threading.Thread(target=self._listen, args=(connection, on_line), daemon=True).start()
        # QEMU says nothing of itself before it is told this.
        self.ask_qemu("qmp_capabilities")
        self.boots.append(Boot(self.now_s(), by_watchdog=False))

    def _listen(self, connection: socket.socket, on_line: Callable[[bytes], None]) -> None:
        # QEMU that is killed with something unread resets the connection.
        with suppress(ConnectionResetError), connection.makefile("rb") as lines:
            for line in lines:
                with self._turn:
                    on_line(line)
                    self._turn.notify_all()

    def _on_qmp(self, line: bytes) -> None:
        message: dict[str, Any] = json.loads(line)
        match message.get("event"):
            case "WATCHDOG":
                self._is_watchdog = True
            # Firmware that finds itself started warm resets once more: no boot of its own.
            case "RESET" if self.boots and self.boot_id and not self._reset_question:
                self._reset_question = self._send_to_qemu("qom-get", **CLOCK_CHIP)
            case None if "id" in message:
                self._on_answer(message["id"], message)

    def _on_answer(self, number: int, message: dict[str, Any]) -> None:
        self._answers[number] = message
        if number == self._reset_question:
            self.boots.append(Boot(seconds_of(self._answers.pop(number)["return"]), self._is_watchdog))
            self._is_watchdog = False
            self._reset_question = 0

    def _send_to_qemu(self, execute: str, **arguments: object) -> int:
        number = next(self._numbers)
        question = {"execute": execute, "arguments": arguments, "id": number}
        self._qmp.sendall(json.dumps(question).encode() + b"\n")
        return number

    def ask_qemu(self, execute: str, **arguments: object) -> Any:
        """What QEMU's monitor returns. Raises LabError where it refuses."""
        number = self._send_to_qemu(execute, **arguments)
        self._wait(lambda: number in self._answers, f"QEMU did not answer {execute}", 60)
        answer = self._answers.pop(number)
        if "return" not in answer:
            raise LabError(f"QEMU refuses {execute}: {answer}")
        return answer["return"]

    def now_s(self) -> float:
        """The time of the machine's clock chip, to the second: it goes on over resets, and as the machine's time does.

        Not where the machine's time is synchronised: then the kernel sets the chip.
        """
        return seconds_of(self.ask_qemu("qom-get", **CLOCK_CHIP))

    def plug_in(self, is_plugged: bool = True) -> None:
        """The network's cable."""
        self.ask_qemu("set_link", name="card", up=is_plugged)

    def command(self, action: str = "reboot_host", **changes: Any) -> dict[str, Any]:
        """By the machine's own clock, which is behind the host's where the host is busy."""
        now = datetime.fromtimestamp(self.now_s(), UTC)
        times = {"issued_at": timestamp(now), "expires_at": timestamp(now + timedelta(minutes=4))}
        return super().command(action, **times | changes)

    def _on_shell(self, line: bytes) -> None:
        # A reset may have cut a line off.
        match line.decode(errors="replace").split():
            case [*_, "ready", boot_id]:
                self.boots[-1].boot_id = boot_id
            case [number, status, *output] if number.isdigit():
                text = base64.b64decode(output[0]).decode(errors="replace") if output else ""
                self._replies[int(number)] = (int(status), text)

    @property
    def boot_id(self) -> str:
        return self.boots[-1].boot_id

    def wait_back(self, timeout_s: float) -> Back:
        """Waits until the agent of the present boot is online."""
        boot = self.wait_up(timeout_s)
        self.wait_online(timeout_s)
        now = self.now_s()
        return Back(now, now - boot.reset_at)

    def _wait(self, is_so: Callable[[], bool], what: str, timeout_s: float) -> None:
        with self._turn:
            if not Patience(timeout_s).wait_for(self._turn, is_so):
                raise LabError(f"{what} within {timeout_s:g} s: {self.boots}")

    def console(self) -> str:
        """What it printed, also after it was closed."""
        path = self.scratch.directory / "console.log"
        if path.exists():
            self._console = path.read_text(errors="replace")
        return self._console

    def wait_reset(self, after: int, timeout_s: float) -> Boot:
        """Waits until the machine was reset once more than `after` boots; the boot that this begins."""
        self._wait(lambda: len(self.boots) > after, f"{self.scratch.name} was not reset", timeout_s)
        return self.boots[after]

    def wait_up(self, timeout_s: float = 240) -> Boot:
        """Waits until the present boot has come to multi-user.target."""
        self._wait(lambda: bool(self.boot_id), f"boot {len(self.boots)} did not come up", timeout_s)
        return self.boots[-1]

    # Inside.

    def start(self, script: str) -> int:
        """Has root's shell begin on it, which will be over sometime or never."""
        number = time.monotonic_ns()
        self._shell.sendall(b"%d %s\n" % (number, base64.b64encode(script.encode())))
        return number

    def run(self, script: str, check: bool = True, timeout_s: float = 60) -> str:
        """What root's shell printed, both streams."""
        number = self.start(script)
        self._wait(lambda: number in self._replies, f"`{script}` was not over", timeout_s)
        status, output = self._replies.pop(number)
        if check and status != 0:
            raise LabError(f"`{script}` ended with {status} on {self.scratch.name}:\n{output[-3000:]}")
        return output

    def read(self, inside: str) -> str:
        return self.run(f"cat {shlex.quote(inside)}")

    def write(self, inside: str, text: str, mode: int = 0o644) -> None:
        path, content = shlex.quote(inside), shlex.quote(text)
        self.run(f"mkdir -p $(dirname {path}); printf %s {content} >{path}; chmod {mode:o} {path}")


def seconds_of(time: dict[str, int]) -> float:
    """What QEMU says of a clock chip, as a struct tm of C, since 1970."""
    names = ("tm_mon", "tm_mday", "tm_hour", "tm_min", "tm_sec")
    month, *rest = (time[name] for name in names)
    return float(calendar.timegm((time["tm_year"] + 1900, month + 1, *rest)))


class Door:
    """A socket that QEMU will come to: unlike the other way round nobody has to try until it is there."""

    def __init__(self, path: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._listener.settimeout(20 * MOST)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()

    def accept(self) -> socket.socket:
        connection, _ = self._listener.accept()
        connection.settimeout(None)
        return connection


def image(suite: str, deb: Path) -> Path:
    """The layer with a disk on which apt installed the package, and the kernel and initramfs from it."""
    layers = installed_layers(suite, deb, vm_root(suite))

    def make(target: Path) -> None:
        with Machine(suite, deb, layers=layers) as machine:
            machine.set_clock_synchronised()
            machine.configure(**CONFIGURED)
            for path, text in FILES.items():
                machine.write(path, text)
            systemctl = "systemctl", f"--root={machine.root}", "--quiet"
            command(*systemctl, "enable", "lab-shell.service")
            # NetworkManager has the network, as on Raspberry Pi OS.
            command(*systemctl, "mask", "networking.service")
            for leftovers in ("var/cache/apt", "var/lib/apt/lists"):
                shutil.rmtree(machine.root / leftovers)
            target.mkdir()
            (kernel,), (initrd,) = (machine.root.glob(f"boot/{name}-*") for name in ("vmlinuz", "initrd.img"))
            shutil.copy(kernel, target / "kernel")
            shutil.copy(initrd, target / "initrd")
            command("mkfs.ext4", "-q", "-L", LABEL, "-d", machine.root, target / "disk", DISK_SIZE)

    recipe = json.dumps([FILES, CONFIGURED, LABEL, DISK_SIZE]).encode()
    return layer(f"image-{suite}-{digest(layers[0].name.encode(), recipe)}", make)
