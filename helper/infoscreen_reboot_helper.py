#!/usr/bin/python3 -I
"""Reboots or shuts down this host on a D-Bus call, if polkit, the lockout and logind's locks allow it."""

import asyncio
import errno
import fcntl
import json
import logging
import math
import os
import re
import signal
import struct
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

sys.modules["gi"] = None  # type: ignore[assignment]  # None keeps dbus-next's GLib back end out: 3.7 MB

from dbus_next.aio.message_bus import MessageBus  # noqa: E402
from dbus_next.constants import MessageFlag, MessageType, NameFlag, RequestNameReply  # noqa: E402
from dbus_next.message import Message  # noqa: E402
from dbus_next.signature import SignatureTree, Variant  # noqa: E402

NAME, PATH, FDO = "org.infoscreen.RebootHelper1", "/org/infoscreen/RebootHelper1", "org.freedesktop"
BUS = f"{FDO}.DBus", "/org/freedesktop/DBus", f"{FDO}.DBus"
LOGIND = f"{FDO}.login1", "/org/freedesktop/login1", f"{FDO}.login1.Manager"
POLKIT = f"{FDO}.PolicyKit1", "/org/freedesktop/PolicyKit1/Authority", f"{FDO}.PolicyKit1.Authority"
SYSTEMD = f"{FDO}.systemd1", "/org/freedesktop/systemd1", f"{FDO}.DBus.Properties"
NO_REPLY, UNKNOWN_METHOD = f"{FDO}.DBus.Error.NoReply", f"{FDO}.DBus.Error.UnknownMethod"
UNANSWERED = NO_REPLY, *(f"{FDO}.DBus.Error.{word}" for word in ("Timeout", "TimedOut", "Disconnected"))
BLOCKED = f"{FDO}.DBus.Error.AccessDenied", f"{FDO}.login1.BlockedByInhibitorLock"
IDLE_S, ANSWER_TIMEOUT_S, IDS_KEPT, AT_ONCE, HEADER = 30.0, 10.0, 1000, 32, b'{"version": 1}\n'
# The bus's own default goes by /var/run, which need not be a link to /run.
BUS_ADDRESS = "unix:path=/run/dbus/system_bus_socket"
# Some 3 KB each: what is wrong with a call by itself is not kept until its turn.
CALLS_WAITING = 5000
# Room for some 250 orders that a full disk still has to take.
RESERVE = 65536
RESERVE_LOW = RESERVE // 4
# A line ends on such a boundary: no line lies in two sectors of a disk, which may be written in either order.
SLOT = 256
PROC = Path("/proc/self")
IN_MEMORY = ("tmpfs", "ramfs", "rootfs")
FIEMAP = 0xC020660B  # ioctl_fiemap(2)
WHOLE_FILE = struct.pack("=QQIIII", 0, 2**64 - 1, 0, 0, 0, 0)  # with room for no answer: whether there is one is enough
EX_CONFIG = 78  # sysexits.h; the unit does not start us again after it
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)
UUID_BYTES = re.compile(UUID.pattern.replace("(", "(?:").encode(), re.IGNORECASE)
CODES = {"NotAuthorized": "not_authorized", "Lockout": "lockout", "Inhibited": "inhibited"}  # for Preview
PERMISSION, REBOOT, SHUTDOWN = "org.infoscreen.reboothelper1", "reboot", "shutdown"
ACTIONS = {"reboot_host": REBOOT, "shutdown_host": SHUTDOWN}
ORDERS, ROOT_CHECK_INHIBITORS = {REBOOT: "RebootWithFlags", SHUTDOWN: "PowerOffWithFlags"}, 1  # sd-login's flag
# All that can be called: the answer's signature, whose permission it takes, which arguments mean something.
MEMBERS: dict[tuple[str, str, str], tuple[str, str, Any]] = {
    (NAME, "Reboot", "s"): ("", REBOOT, UUID.fullmatch),
    (NAME, "Shutdown", "s"): ("", SHUTDOWN, UUID.fullmatch),
    (NAME, "Preview", "s"): ("bss", REBOOT, ACTIONS.get),
    (f"{FDO}.DBus.Properties", "Get", "ss"): ("v", REBOOT, lambda *of: of == (NAME, "Lockout")),
}


class Refused(Exception):
    def __init__(self, error: str, sentence: str) -> None:
        super().__init__("".join(c if c.isprintable() else " " for c in sentence)[:500])
        self.error = error  # a bare word is one of our own errors


class Now(NamedTuple):
    wall_s: float
    boot_id: str
    monotonic_s: float  # CLOCK_BOOTTIME: comparable within one boot
    since_boot_s: float

    def at(self, after_s: float = 0) -> str:
        return datetime.fromtimestamp(math.ceil(self.wall_s + after_s), UTC).isoformat().replace("+00:00", "Z")


@dataclass(frozen=True)
class Entry:
    command_id: str
    action: str
    boot_id: str
    at: str  # RFC 3339
    monotonic_s: float
    counted: bool

    def age_s(self, now: Now) -> float:
        """In the boot in which it was made only the kernel's clock counts: nobody can set that one.

        In a later boot nobody knows how long the host was off. The wall clock may be wrong after a boot: of it and the
        time since the boot, that which says "longer ago" is taken.
        """
        wall_s = now.wall_s - datetime.fromisoformat(self.at).timestamp()
        if self.boot_id == now.boot_id:
            return max(now.monotonic_s - self.monotonic_s, 0.0)
        return max(wall_s, now.since_boot_s, 0.0)


def lockout(entries: Iterable[Entry], now: Now, limit: int, window_s: int) -> tuple[int, str]:
    """How many reboots count, and when the next is possible ("" for now); the limit may have been lowered since."""
    left_s = sorted(window_s - e.age_s(now) for e in entries if e.counted and e.age_s(now) < window_s)
    return len(left_s), now.at(left_s[-limit]) if len(left_s) >= limit else ""


class History:
    """One JSON object per line. If a command id appears more than once, its last line is valid.

    An entry is written over zeros at the end of the file, so a full disk has room for it, and it takes one flush;
    rewriting the file takes several.
    """

    def __init__(self, directory: Path, limit: int, window_s: int) -> None:
        self.path, self.limit, self.window_s = directory / "history.jsonl", limit, window_s
        self.entries: dict[str, Entry] = {}
        self.is_whole = False  # what is on the disk is all of it, so that a line may be added
        self.end = 0  # where the next line begins
        self.does_not_last = ""  # why the record is lost with a reboot; empty where it is kept

    def load(self, now: Now) -> None:
        """An unreadable history is set aside and counts as full from now on: not as empty, not for ever."""
        self.does_not_last = does_not_last(self.path.parent)
        try:
            content, is_of_ours = self.read()
            header, *lines = content.splitlines(keepends=True)
            entries = [Entry(**json.loads(line)) for line in lines]
            if header != HEADER or not all(math.isfinite(e.age_s(now) + e.monotonic_s) for e in entries):
                raise ValueError("an unknown version or an impossible time")
            self.entries = {entry.command_id: entry for entry in entries}
        except (OSError, ValueError, TypeError, KeyError, ArithmeticError, RecursionError) as error:
            logging.error("cannot read %s (%r): set aside, a full lockout starts now", self.path, error)
            self.begin_anew(now)
            return
        self.is_whole = is_of_ours
        self.end = len(content)
        self.make_room(now)

    def read(self) -> tuple[bytes, bool]:
        """The lines, and whether one can be added to the file; without a file, those of the format before this one."""
        if self.path.exists():
            content = self.path.read_bytes()
            rest = content[content.rfind(b"\n") + 1 :].strip(b"\0")  # a line without an end was not flushed
            return content[: content.rfind(b"\n") + 1], rest == b""
        older = self.path.with_suffix(".json")
        if older.exists():
            document = json.loads(older.read_bytes())
            if document["version"] != 1:
                raise ValueError("an unknown version")
            return HEADER + b"".join(json.dumps(entry).encode() + b"\n" for entry in document["entries"]), False
        return HEADER, False

    def begin_anew(self, now: Now) -> None:
        """Any id that can still be found in what cannot be read counts as executed."""
        broken = self.path if self.path.exists() else self.path.with_suffix(".json")
        unknown = Entry("", "unreadable", now.boot_id, now.at(), now.monotonic_s, counted=True)
        found: list[bytes] = []
        try:
            found = UUID_BYTES.findall(broken.read_bytes())
        except OSError as error:
            logging.error("no command id can be found in %s: %s", broken, error.strerror)
        known = [replace(unknown, command_id=word.decode().lower(), counted=False) for word in found]
        full = [replace(unknown, command_id=f"unreadable {number}") for number in range(self.limit)]
        self.entries = {entry.command_id: entry for entry in known + full}
        try:
            self.rewrite(self.entries, now, aside=broken)
        except OSError as error:  # it locks again at the next start
            logging.error("cannot write %s: %s", self.path, error.strerror)

    def make_room(self, now: Now) -> None:
        """While there is some: an order needs none on the disk then."""
        if self.is_whole and self.path.stat().st_size - self.end >= RESERVE_LOW:
            return
        try:
            self.rewrite(self.entries, now)
        except OSError as error:
            logging.error("cannot reserve room for %s: %s", self.path, error.strerror)

    def lockout(self, now: Now) -> tuple[int, str]:
        return lockout(self.entries.values(), now, self.limit, self.window_s)

    def commit(self, entry: Entry, now: Now) -> None:
        entries = self.entries | {entry.command_id: entry}
        can_add, self.is_whole = self.is_whole and self.path.exists() and len(entries) <= 2 * IDS_KEPT, False
        try:
            if not can_add:
                return self.rewrite(entries, now)
            with self.path.open("r+b") as file:
                file.seek(self.end)
                self.end = write(file, entry)
        except OSError as error:
            raise Refused("Failed", f"cannot write {self.path}: {error.strerror}") from error
        self.entries, self.is_whole = entries, True

    def rewrite(self, entries: dict[str, Entry], now: Now, *, aside: Path | None = None) -> None:
        every, new = list(entries.values()), self.path.with_suffix(".new")
        kept = [e for e in every[:-IDS_KEPT] if e.counted and e.age_s(now) < self.window_s] + every[-IDS_KEPT:]
        with new.open("wb") as file:
            file.write(HEADER)
            end = write(file, *kept, reserve=RESERVE)
        if aside is not None:
            aside.replace(aside.with_suffix(f"{aside.suffix}.corrupt"))
        new.replace(self.path)
        os.fsync(directory := os.open(self.path.parent, os.O_RDONLY))
        os.close(directory)
        self.entries, self.is_whole = {entry.command_id: entry for entry in kept}, True
        self.end = end


def write(file: BinaryIO, *entries: Entry, reserve: int = 0) -> int:
    """Where the last line ends; all is on the disk then."""
    for entry in entries:
        line = json.dumps(vars(entry)).encode()
        padding = -(file.tell() + len(line) + 1) % SLOT
        file.write(line + b" " * padding + b"\n")
    end = file.tell()
    file.write(bytes(reserve))
    file.flush()
    os.fdatasync(file.fileno())
    return end


def does_not_last(directory: Path) -> str:
    """Why what is written there is gone after a reboot, or may be; empty where it is kept."""
    try:
        # For writing, else it may be a file of a lower layer. It stays: a full disk may have no room for another.
        probe = os.open(directory / "lasting-probe", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            why = lies_in_memory(probe)
        finally:
            os.close(probe)
    except (OSError, ValueError) as error:
        why = f"cannot tell where it lies: {error}"
    return f"{directory} does not outlive a reboot: {why}; see fleet.md" if why else ""


def lies_in_memory(file: int) -> str:
    [mount_id] = re.findall(r"^mnt_id:\s*(\d+)$", (PROC / f"fdinfo/{file}").read_text(), re.MULTILINE)
    mounts = (PROC / "mountinfo").read_text(errors="surrogateescape")
    [kind] = re.findall(rf"^{mount_id} .* - (\S+) ", mounts, re.MULTILINE)
    if kind == "overlay":
        # It passes the question on which blocks a file lies to the layer that holds it; a tmpfs knows no blocks.
        try:
            fcntl.ioctl(file, FIEMAP, WHOLE_FILE)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                return "the upper layer of its overlay lies in memory"
            raise
    return f"it lies in memory ({kind})" if kind in IN_MEMORY else ""


class Helper:
    def __init__(self, bus: MessageBus, boot_id: str, history: History) -> None:
        self.bus, self.boot_id, self.history, self.started_s = bus, boot_id, history, 0.0
        self.work: set[asyncio.Task[None]] = set()
        self.is_dropping = False
        self.one_at_a_time, self.room, self.stopping = asyncio.Lock(), asyncio.Semaphore(AT_ONCE), asyncio.Event()
        self.idle = asyncio.get_running_loop().call_later(IDLE_S, self.stopping.set)

    def on_message(self, message: Message) -> bool:
        """Takes every method call, so that dbus-next's own handlers (Peer, ObjectManager) answer no one."""
        SignatureTree._cache.clear()  # else dbus-next would keep each signature that it has ever met
        if message.message_type is not MessageType.METHOD_CALL:
            return False
        if len(self.work) >= CALLS_WAITING:
            # An answer would want the room that is short; the caller is told nothing, and its bus says so in the end.
            if not self.is_dropping:
                logging.error("%d calls wait: what comes now is dropped", CALLS_WAITING)
            self.is_dropping = True
            return True
        self.idle.cancel()
        fault = fault_of(message)
        if fault is not None:
            message.body = []  # megabytes, perhaps
        task = asyncio.create_task(self.in_turn(message, fault))
        self.work.add(task)
        task.add_done_callback(self.on_answered)
        return True

    def on_answered(self, task: asyncio.Task[None]) -> None:
        self.work.discard(task)
        if not self.work:
            self.is_dropping = False
            self.idle = asyncio.get_running_loop().call_later(IDLE_S, self.stopping.set)

    async def in_turn(self, message: Message, fault: Refused | None) -> None:
        async with self.room:  # that many fit into the socket: dbus-next gives a connection up whose buffer is full
            await self.answer(message, fault)

    async def answer(self, message: Message, fault: Refused | None) -> None:
        command_id = next((a.lower() for a in message.body if isinstance(a, str) and UUID.fullmatch(a)), "")
        caller, outcome = str(message.sender), "done"
        try:
            [who] = await self.ask(BUS, "GetConnectionCredentials", "s", [message.sender], "NotAuthorized")
            if "ProcessID" not in who:
                # It handed its connection to another and ended: polkit could not tell in which unit it was.
                raise Refused("NotAuthorized", "the process that made this connection has ended")
            caller = f"uid {who['UnixUserID'].value}, pid {who['ProcessID'].value}"
            reply = Message.new_method_return(message, *await self.gate(message, fault))
        except Refused as no:
            error = no.error if "." in no.error else f"{NAME}.Error.{no.error}"
            outcome, reply = f"{no.error}: {no}", Message.new_error(message, error, str(no))
        except Exception as bug:  # the boundary: whatever goes wrong inside, no traceback crosses the bus
            logging.exception("cannot answer %s", message.member)
            outcome = f"internal error: {type(bug).__name__}"
            reply = Message.new_error(message, f"{NAME}.Error.Failed", outcome)
        called, fields = f"{message.member} {command_id}".strip(), {"COMMAND_ID": command_id} if command_id else None
        logging.info("%s by %s: %s", called, caller, outcome, extra=fields)
        if not message.flags & MessageFlag.NO_REPLY_EXPECTED:
            await self.bus.send(reply)

    async def gate(self, message: Message, fault: Refused | None) -> tuple[str, list[Any]]:
        """The one way in: no fault in the call itself, and polkit's yes to this sender."""
        if fault is not None:
            raise fault
        gives, permission, _ = MEMBERS[str(message.interface), message.member, message.signature]
        await self.authorise(message.sender, permission)
        if message.member in ("Reboot", "Shutdown"):
            return gives, await self.order(permission, message.body[0].lower())
        if message.member == "Preview":
            return gives, await self.preview(message.sender, ACTIONS[message.body[0]])
        used, unlocks_at = self.history.lockout(self.now())
        return gives, [Variant("(uuus)", [used, self.history.limit, self.history.window_s, unlocks_at])]

    async def authorise(self, sender: str, action: str) -> None:
        about = [["system-bus-name", {"name": Variant("s", sender)}], f"{PERMISSION}.{action}", {}, 0, ""]
        reply = await self.ask(POLKIT, "CheckAuthorization", "(sa{sv})sa{ss}us", about, "NotAuthorized")
        if reply[0][0] is not True:
            raise Refused("NotAuthorized", f"polkit does not allow {PERMISSION}.{action}")

    async def order(self, action: str, command_id: str) -> list[Any]:
        async with self.one_at_a_time:
            if command_id in self.history.entries:
                raise Refused("AlreadyExecuted", f"command {command_id} was executed before")
            now = await self.check(action)
            entry = Entry(command_id, f"{action}_host", now.boot_id, now.at(), now.monotonic_s, action == REBOOT)
            self.history.commit(entry, now)
            self.set_wall_message(f"{action.capitalize()} by remote command {command_id}")
            try:
                await self.ask(LOGIND, ORDERS[action], "t", [ROOT_CHECK_INHIBITORS])
            except Refused as no:
                if no.error == NO_REPLY:  # the host may be going down: stays counted, is not called a failure
                    raise
                self.set_wall_message("")
                self.history.commit(replace(entry, counted=False), now)
                raise Refused("Inhibited" if no.error in BLOCKED else "Failed", str(no)) from no
        return []

    async def preview(self, sender: str, action: str) -> list[Any]:
        try:
            await self.authorise(sender, action)
            await self.check(action)
        except Refused as no:
            return [False, CODES.get(no.error, "helper_failed"), str(no)]
        return [True, "", ""]

    async def check(self, action: str) -> Now:
        """What time it is, if neither the lockout (of reboots) nor an inhibitor stands in the way."""
        if self.history.does_not_last:
            raise Refused("Failed", self.history.does_not_last)
        now, s = self.now(), self.history.window_s
        used, unlocks_at = self.history.lockout(now)
        if action == REBOOT and unlocks_at:
            window = f"{s // 60} minutes" if s >= 120 and s % 60 == 0 else f"{s} seconds"
            reboots = "1 reboot" if used == 1 else f"{used} reboots"
            raise Refused("Lockout", f"{reboots} in the last {window}; next possible at {unlocks_at}")
        [locks] = await self.ask(LOGIND, "ListInhibitors", "", [], "Failed")
        # systemd 252 lets root through such a lock whatever the flags say (PR 30307): so we look ourselves.
        blocking = [lock for lock in locks if lock[3] == "block" and "shutdown" in lock[0].split(":")]
        if blocking:
            holders = (f"{who}: {why} (pid {pid})" for _, who, why, _, _, pid in blocking)
            raise Refused("Inhibited", "blocked by " + "; ".join(holders))
        return now

    async def start(self) -> None:
        about = [f"{FDO}.systemd1.Manager", "UserspaceTimestampMonotonic"]  # in a container, /proc/uptime is the host's
        [started_us] = await self.ask(SYSTEMD, "Get", "ss", about, "Failed")
        self.started_s = started_us.value / 1e6
        self.history.load(self.now())

    def now(self) -> Now:
        boot_clock_s = time.clock_gettime(time.CLOCK_BOOTTIME)
        return Now(time.time(), self.boot_id, boot_clock_s, time.monotonic() - self.started_s)

    def set_wall_message(self, text: str) -> None:
        # Best effort, no answer wanted: the bus keeps the order of what we send to logind.
        no_reply = MessageFlag.NO_REPLY_EXPECTED
        self.bus.send(Message(*LOGIND, "SetWallMessage", flags=no_reply, signature="sb", body=[text, True]))

    async def ask(self, whom: tuple[str, str, str], member: str, takes: str, body: list[Any], or_else: str = "") -> Any:
        """Raises Refused, as `or_else` or as the error answered; NO_REPLY means: it may have been done."""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                reply: Any = await self.bus.call(Message(*whom, member, signature=takes, body=body))
        except (TimeoutError, OSError, EOFError):
            raise Refused(or_else or NO_REPLY, f"{whom[0]} did not answer {member}") from None
        if reply.message_type is MessageType.ERROR:
            error = NO_REPLY if reply.error_name in UNANSWERED else reply.error_name
            text = reply.body[0] if reply.signature[:1] == "s" else reply.error_name
            raise Refused(or_else or error, f"{whom[0]} answered: {text}")
        return reply.body


def fault_of(message: Message) -> Refused | None:
    """What is wrong with a call by itself, whoever sent it."""
    member = (str(message.interface), message.member, message.signature)
    if message.path != PATH or member not in MEMBERS:
        return Refused(UNKNOWN_METHOD, "there is no such method here")
    _, _, means_something = MEMBERS[member]
    if not means_something(*message.body):
        return Refused("InvalidArgument", f"{message.member} cannot take {', '.join(message.body)!r}")
    return None


def close_descriptors(message: Message) -> bool:
    """Of every message: dbus-broker sends some with its answers, and anyone may with a call; we have no use for any."""
    for descriptor in message.unix_fds:
        os.close(descriptor)
    return False


def setting(name: str, default: str, most: int) -> int:
    if re.fullmatch(r"[0-9]{1,9}", text := os.environ.get(name, default)) and 1 <= int(text) <= most:
        return int(text)
    refuse_to_start(f"{name} is {text!r}, but must be a whole number from 1 to {most}")


def refuse_to_start(why: str) -> NoReturn:
    """For what another start does not mend."""
    logging.error("cannot start: %s", why)
    sys.exit(EX_CONFIG)


async def serve(boot_id: str, history: History) -> None:
    address = os.environ.get("DBUS_SYSTEM_BUS_ADDRESS") or BUS_ADDRESS
    # dbus-broker puts a descriptor into the answer about a caller, and drops a connection that takes none.
    try:
        bus = await MessageBus(address, negotiate_unix_fd=True).connect()
    except OSError as error:
        raise EOFError(f"there is no bus at {address}: {error.strerror}") from error
    bus.add_message_handler(close_descriptors)
    helper = Helper(bus, boot_id, history)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, helper.stopping.set)
    await helper.start()
    bus.add_message_handler(helper.on_message)
    if await bus.request_name(NAME, NameFlag.DO_NOT_QUEUE) is not RequestNameReply.PRIMARY_OWNER:
        sys.exit(f"cannot start: someone else owns {NAME}")
    ends = [asyncio.ensure_future(end) for end in (bus.wait_for_disconnect(), helper.stopping.wait())]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    if ends[0].done():
        raise EOFError("the system bus is gone") from ends[0].exception()
    # A call that came before the bus took the name away is still ours; a later one starts the next helper.
    await bus.release_name(NAME)
    while helper.work:
        await asyncio.wait(helper.work)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    stderr = os.fstat(2)
    if os.environ.get("JOURNAL_STREAM") == f"{stderr.st_dev}:{stderr.st_ino}":
        from systemd.journal import JournalHandler

        logging.getLogger().handlers = [JournalHandler(SYSLOG_IDENTIFIER="infoscreen-reboot-helper")]
    if not (directory := os.environ.get("STATE_DIRECTORY")) or not (boot_id := os.environ.get("BOOT_ID")):
        refuse_to_start("infoscreen-reboot-helper.service sets STATE_DIRECTORY and BOOT_ID, which are missing")
    history = History(Path(directory), setting("LOCKOUT_LIMIT", "3", 100), setting("LOCKOUT_WINDOW_S", "900", 86400))
    try:
        asyncio.run(serve(boot_id, history))
    except (Refused, OSError, EOFError) as error:
        sys.exit(f"cannot go on: {error}")


if __name__ == "__main__":
    main()
