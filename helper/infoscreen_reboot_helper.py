#!/usr/bin/python3 -I
"""Reboots or shuts down this host on a D-Bus call, if polkit, the lockout and logind's locks allow it.

Five sections: names, lockout, history, bus, start. A call goes through Helper.on_message, answer, gate and order.
"""

import asyncio
import errno
import fcntl
import json
import logging
import math
import os
import re
import signal
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

# None keeps dbus-next from loading its GLib back end, which takes 3.7 MB and is not used here.
sys.modules["gi"] = None  # type: ignore[assignment]

from dbus_next.aio.message_bus import MessageBus  # noqa: E402
from dbus_next.constants import MessageFlag, MessageType, NameFlag, RequestNameReply  # noqa: E402
from dbus_next.message import Message  # noqa: E402
from dbus_next.signature import SignatureTree, Variant  # noqa: E402

# --- Names: who is who on the bus, what can be called, and the two kinds of refusal -----------------------------------

# Our own name and path; the files for D-Bus and systemd in this package use the same name.
NAME = "org.infoscreen.RebootHelper1"
PATH = "/org/infoscreen/RebootHelper1"

# What can be ordered, in the words of the agent and of the history.
REBOOT = "reboot_host"
SHUTDOWN = "shutdown_host"
# The same in the words of polkit, and of logind.
PERMISSIONS = {REBOOT: "org.infoscreen.reboothelper1.reboot", SHUTDOWN: "org.infoscreen.reboothelper1.shutdown"}
ORDERS = {REBOOT: "RebootWithFlags", SHUTDOWN: "PowerOffWithFlags"}
ROOT_CHECK_INHIBITORS = 1  # the flag of sd-login.h for both: locks count although root asks

# Whom we ask: name, path, interface.
BUS = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
LOGIND = ("org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager")
POLKIT = (
    "org.freedesktop.PolicyKit1",
    "/org/freedesktop/PolicyKit1/Authority",
    "org.freedesktop.PolicyKit1.Authority",
)
SYSTEMD = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.DBus.Properties")

# The standard errors with which we answer. NoReply means that logind was asked, and nobody knows whether it obeyed.
NO_REPLY = "org.freedesktop.DBus.Error.NoReply"
UNKNOWN_METHOD = "org.freedesktop.DBus.Error.UnknownMethod"
# With these errors the bus tells us that nobody answered.
UNANSWERED = (
    NO_REPLY,
    "org.freedesktop.DBus.Error.Timeout",
    "org.freedesktop.DBus.Error.TimedOut",
    "org.freedesktop.DBus.Error.Disconnected",
)
# With these errors logind tells us that a lock stands in the way.
BLOCKED = ("org.freedesktop.DBus.Error.AccessDenied", "org.freedesktop.login1.BlockedByInhibitorLock")
# Our errors in the words of Preview; all others are helper_failed.
CODES = {"NotAuthorized": "not_authorized", "Lockout": "lockout", "Inhibited": "inhibited"}

IDLE_S = 30.0  # after so long without a call the helper ends; the next call starts it again
ANSWER_TIMEOUT_S = 10.0  # for each question to others; the agent's HELPER_S depends on it
AT_ONCE = 32  # calls in work. So many fit into the socket's buffer; if it is full, dbus-next gives the connection up
CALLS_WAITING = 5000  # some 3 KB each: a call that is wrong by itself does not keep its content until its turn
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)  # a command's id


@dataclass(frozen=True)
class Member:
    answer: str  # its D-Bus signature
    action: str  # the action that polkit has to allow
    arguments: tuple[re.Pattern[str], ...]  # what each argument must match, from its first character to its last


# All that can be called, by interface, name and signature.
MEMBERS = {
    (NAME, "Reboot", "s"): Member("", REBOOT, (UUID,)),
    (NAME, "Shutdown", "s"): Member("", SHUTDOWN, (UUID,)),
    (NAME, "Preview", "s"): Member("bss", REBOOT, (re.compile(f"{REBOOT}|{SHUTDOWN}"),)),
    ("org.freedesktop.DBus.Properties", "Get", "ss"): Member(
        "v", REBOOT, (re.compile(re.escape(NAME)), re.compile("Lockout"))
    ),
}


# A refusal of our own: `error` is one word.
class Refused(Exception):
    prefix = f"{NAME}.Error."  # this, followed by that word, is the name of the D-Bus error

    def __init__(self, error: str, sentence: str) -> None:
        # One line, and a short one, whatever others have put into it.
        super().__init__("".join(c if c.isprintable() else " " for c in sentence)[:500])
        self.error = error


# A refusal in the words of D-Bus or of a service that we asked: `error` is the whole name of the D-Bus error.
class BusRefused(Refused):
    prefix = ""


# --- Lockout: how many of the last reboots count, and when the next one is possible -----------------------------------


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
        wall_s = now.wall_s - datetime.fromisoformat(self.at).timestamp()
        if self.boot_id == now.boot_id:
            # Only the kernel's clock counts: nobody can set that one.
            return max(now.monotonic_s - self.monotonic_s, 0.0)
        # After a boot nobody knows how long the host was off, and the wall clock may be wrong. So we take the longer of
        # two times: by the wall clock, and since the boot.
        return max(wall_s, now.since_boot_s, 0.0)


def lockout(entries: Iterable[Entry], now: Now, limit: int, window_s: int) -> tuple[int, str]:
    # Returns how many reboots count, and when the next one is possible ("" means now).
    left_s = sorted(window_s - e.age_s(now) for e in entries if e.counted and e.age_s(now) < window_s)
    # More reboots than the limit may count: the limit may have been lowered since.
    unlocks_at = now.at(left_s[-limit]) if len(left_s) >= limit else ""
    return len(left_s), unlocks_at


# --- History: what was executed, on the disk before logind is asked ---------------------------------------------------

# The file begins with this line. Then comes one JSON object per line. If a command id appears more than once, its last
# line is valid. A new entry is written over the zeros at the end. So a full disk has room for it, and it needs one
# flush; rewriting the file needs several.
HEADER = b'{"version": 1}\n'
IDS_KEPT = 1000  # besides those that count; they are needed if the agent's own store is lost
RESERVE = 65536  # room for some 250 orders, which have to fit even when the disk is full
SLOT = 256  # each line ends on such a boundary. So none is in two sectors of a disk: these may be written in any order
IN_MEMORY = ("tmpfs", "ramfs", "rootfs")  # the file systems that a reboot empties
FIEMAP = 0xC020660B  # ioctl_fiemap(2): on which blocks a file lies
WHOLE_FILE = bytes(8) + b"\xff" * 8 + bytes(16)  # from 0 to the end; no room for the answer, which we need not read


class History:
    def __init__(self, directory: Path, limit: int, window_s: int) -> None:
        self.path = directory / "history.jsonl"
        self.limit = limit
        self.window_s = window_s
        self.entries: dict[str, Entry] = {}
        self.end = 0  # where the next line begins; 0 if the file has to be rewritten first
        self.does_not_last = ""  # why the history is lost with a reboot; empty if it is kept

    def load(self, now: Now) -> None:
        # An unreadable history is set aside. The lockout counts as full from now on: not as empty, and not for ever.
        self.does_not_last = does_not_last(self.path.parent)
        try:
            content, end = self.read()
            header, *lines = content.splitlines(keepends=True)
            entries = [Entry(**json.loads(line)) for line in lines]
            if header != HEADER or not all(math.isfinite(e.age_s(now) + e.monotonic_s) for e in entries):
                raise ValueError("an unknown version or an impossible time")
            self.entries = {entry.command_id: entry for entry in entries}
        except (OSError, ValueError, TypeError, KeyError, ArithmeticError, RecursionError) as error:
            logging.error("cannot read %s (%r): set aside, a full lockout starts now", self.path, error)
            self.begin_anew(now)
        else:
            self.end = end
            self.make_room(now)

    def read(self) -> tuple[bytes, int]:
        # Returns the lines, and where the next one begins. If there is no file, it reads one in the older format.
        if self.path.exists():
            content = self.path.read_bytes()
            end = content.rfind(b"\n") + 1
            # A line without an end was not flushed: it does not count, and the file has to be rewritten.
            return content[:end], end if content[end:].strip(b"\0") == b"" else 0
        older = self.path.with_suffix(".json")
        if older.exists():
            document = json.loads(older.read_bytes())
            if document["version"] != 1:
                raise ValueError("an unknown version")
            return HEADER + b"".join(json.dumps(entry).encode() + b"\n" for entry in document["entries"]), 0
        return HEADER, 0

    def begin_anew(self, now: Now) -> None:
        # Each command id that can still be found in the unreadable file counts as executed.
        broken = self.path if self.path.exists() else self.path.with_suffix(".json")
        try:
            text = broken.read_text("latin-1")
        except OSError as error:
            logging.error("no command id can be found in %s: %s", broken, error.strerror)
            text = ""
        unknown = Entry("", "unreadable", now.boot_id, now.at(), now.monotonic_s, counted=True)
        known = [replace(unknown, command_id=word.lower(), counted=False) for word in UUID.findall(text)]
        full = [replace(unknown, command_id=f"unreadable {number}") for number in range(self.limit)]
        self.entries = {entry.command_id: entry for entry in known + full}
        try:
            self.rewrite(self.entries, now, aside=broken)
        except OSError as error:
            # Then the unreadable file is not set aside, and the next start locks again.
            logging.error("cannot write %s: %s", self.path, error.strerror)

    def make_room(self, now: Now) -> None:
        # If three quarters of the reserve are used, a new file gets all of it. On a full disk the rest must be enough.
        if self.end > 0 and self.path.stat().st_size - self.end >= RESERVE // 4:
            return
        try:
            self.rewrite(self.entries, now)
        except OSError as error:
            logging.error("cannot reserve room for %s: %s", self.path, error.strerror)

    def lockout(self, now: Now) -> tuple[int, str]:
        return lockout(self.entries.values(), now, self.limit, self.window_s)

    def commit(self, entry: Entry, now: Now) -> None:
        # Returns when the entry is on the disk. If it raises Refused, nothing may be executed.
        entries = self.entries | {entry.command_id: entry}
        try:
            if self.end > 0 and self.path.exists() and len(entries) <= 2 * IDS_KEPT:
                with self.path.open("r+b") as file:
                    file.seek(self.end)
                    self.end = write(file, entry)
                self.entries = entries
            else:
                self.rewrite(entries, now)
        except OSError as error:
            # Part of a line may be in the file: the next commit rewrites the file.
            self.end = 0
            raise Refused("Failed", f"cannot write {self.path}: {error.strerror}") from error

    def rewrite(self, entries: dict[str, Entry], now: Now, *, aside: Path | None = None) -> None:
        # `aside` is a file to be set aside when the new one has been written.
        every = list(entries.values())
        kept = [e for e in every[:-IDS_KEPT] if e.counted and e.age_s(now) < self.window_s] + every[-IDS_KEPT:]
        new = self.path.with_suffix(".new")
        with new.open("wb") as file:
            file.write(HEADER)
            end = write(file, *kept, reserve=RESERVE)
        if aside is not None:
            aside.replace(aside.with_suffix(f"{aside.suffix}.corrupt"))
        new.replace(self.path)
        self.end = end  # of the file that is there now, whatever the next lines say
        directory = os.open(self.path.parent, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)
        self.entries = {entry.command_id: entry for entry in kept}


def write(file: BinaryIO, *entries: Entry, reserve: int = 0) -> int:
    # Returns where the last line ends. Then everything is on the disk.
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
    # Returns why what is written there is gone after a reboot, or may be; "" if it is kept.
    try:
        # Opened for writing: else it may be in a lower layer. The file stays: a full disk may have no room for another.
        with os.fdopen(os.open(directory / "lasting-probe", os.O_RDWR | os.O_CREAT, 0o600), "r+b") as probe:
            why = lies_in_memory(probe.fileno())
    except (OSError, ValueError) as error:
        why = f"cannot tell where it lies: {error}"
    return f"{directory} does not outlive a reboot: {why}; see fleet.md" if why else ""


def lies_in_memory(file: int) -> str:
    [mount_id] = re.findall(r"^mnt_id:\s*(\d+)$", Path(f"/proc/self/fdinfo/{file}").read_text(), re.MULTILINE)
    mounts = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    [kind] = re.findall(rf"^{mount_id} .* - (\S+) ", mounts, re.MULTILINE)
    if kind == "overlay":
        # We ask on which blocks the file lies. An overlay asks the layer that holds the file; a tmpfs knows no blocks.
        try:
            fcntl.ioctl(file, FIEMAP, WHOLE_FILE)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                return "the upper layer of its overlay lies in memory"
            raise
    return f"it lies in memory ({kind})" if kind in IN_MEMORY else ""


# --- Bus: calls come in, pass one gate and are answered; others are asked ---------------------------------------------


class Helper:
    def __init__(self, bus: MessageBus, boot_id: str, history: History) -> None:
        self.bus = bus
        self.boot_id = boot_id
        self.history = history
        self.started_s = 0.0  # when the host came up, by time.monotonic()
        self.work: set[asyncio.Task[None]] = set()  # one for each call that is not answered yet
        self.is_dropping = False
        self.room = asyncio.Semaphore(AT_ONCE)
        self.one_at_a_time = asyncio.Lock()
        self.stopping = asyncio.Event()
        self.idle = asyncio.get_running_loop().call_later(IDLE_S, self.stopping.set)

    def on_message(self, message: Message) -> bool:
        # It takes every method call, so that dbus-next's own handlers (Peer, ObjectManager) answer no one.
        SignatureTree._cache.clear()  # dbus-next would keep every signature that it has ever met
        if message.message_type is not MessageType.METHOD_CALL:
            return False
        if len(self.work) >= CALLS_WAITING:
            # An answer would need the room that is short. So the caller gets none; in the end its bus tells it so.
            if not self.is_dropping:
                logging.error("%d calls wait: what comes now is dropped", CALLS_WAITING)
            self.is_dropping = True
            return True
        self.idle.cancel()
        fault = fault_of(message)
        if fault is not None:
            message.body = []  # it may be megabytes
        task = asyncio.create_task(self.answer(message, fault))
        self.work.add(task)
        task.add_done_callback(self.on_answered)
        return True

    def on_answered(self, task: asyncio.Task[None]) -> None:
        self.work.discard(task)
        if not self.work:
            self.is_dropping = False
            self.idle = asyncio.get_running_loop().call_later(IDLE_S, self.stopping.set)

    async def answer(self, message: Message, fault: Refused | None) -> None:
        async with self.room:
            command_id = next((x.lower() for x in message.body if isinstance(x, str) and UUID.fullmatch(x)), "")
            caller = str(message.sender)
            try:
                [who] = await self.ask_or_refuse("NotAuthorized", BUS, "GetConnectionCredentials", "s", [caller])
                if "ProcessID" not in who:
                    # The caller gave its connection to another process and ended: polkit could not tell its unit.
                    raise Refused("NotAuthorized", "the process that made this connection has ended")
                caller = f"uid {who['UnixUserID'].value}, pid {who['ProcessID'].value}"
                reply = await self.gate(message, fault)
                outcome = "done"
            except Refused as no:
                reply = Message.new_error(message, f"{no.prefix}{no.error}", str(no))
                outcome = f"{no.error}: {no}"
            except Exception as bug:
                # The boundary: whatever goes wrong inside, no traceback crosses the bus.
                logging.exception("cannot answer %s", message.member)
                outcome = f"internal error: {type(bug).__name__}"
                reply = Message.new_error(message, f"{NAME}.Error.Failed", outcome)
            logging.info(
                "%s by %s: %s",
                f"{message.member} {command_id}".strip(),
                caller,
                outcome,
                extra={"COMMAND_ID": command_id} if command_id else None,
            )
            if not message.flags & MessageFlag.NO_REPLY_EXPECTED:
                await self.bus.send(reply)

    async def gate(self, message: Message, fault: Refused | None) -> Message:
        # Every call has to pass here: the call itself has no fault, and polkit says yes to its sender.
        if fault is not None:
            raise fault
        member = MEMBERS[str(message.interface), message.member, message.signature]
        await self.authorise(message.sender, member.action)
        body: list[Any] = []
        if message.member in ("Reboot", "Shutdown"):
            await self.order(member.action, message.body[0].lower())
        elif message.member == "Preview":
            body = await self.preview(message.sender, message.body[0])
        else:
            used, unlocks_at = self.history.lockout(self.now())
            body = [Variant("(uuus)", [used, self.history.limit, self.history.window_s, unlocks_at])]
        return Message.new_method_return(message, member.answer, body)

    async def authorise(self, sender: str, action: str) -> None:
        # About this connection and this action: no details, no interaction, no way to cancel the question.
        about = [["system-bus-name", {"name": Variant("s", sender)}], PERMISSIONS[action], {}, 0, ""]
        reply = await self.ask_or_refuse("NotAuthorized", POLKIT, "CheckAuthorization", "(sa{sv})sa{ss}us", about)
        if reply[0][0] is not True:
            raise Refused("NotAuthorized", f"polkit does not allow {PERMISSIONS[action]}")

    async def order(self, action: str, command_id: str) -> None:
        async with self.one_at_a_time:
            if command_id in self.history.entries:
                raise Refused("AlreadyExecuted", f"command {command_id} was executed before")
            now = await self.check(action)
            entry = Entry(command_id, action, now.boot_id, now.at(), now.monotonic_s, counted=action == REBOOT)
            self.history.commit(entry, now)
            self.set_wall_message(f"{action.removesuffix('_host').capitalize()} by remote command {command_id}")
            try:
                await self.ask(LOGIND, ORDERS[action], "t", [ROOT_CHECK_INHIBITORS])
            except BusRefused as no:
                if no.error == NO_REPLY:
                    # The host may be going down: the entry stays counted, and we do not call it a failure.
                    raise
                self.set_wall_message("")
                self.history.commit(replace(entry, counted=False), now)
                raise Refused("Inhibited" if no.error in BLOCKED else "Failed", str(no)) from no

    async def preview(self, sender: str, action: str) -> list[Any]:
        try:
            await self.authorise(sender, action)
            await self.check(action)
        except Refused as no:
            return [False, CODES.get(no.error, "helper_failed"), str(no)]
        return [True, "", ""]

    async def check(self, action: str) -> Now:
        # Returns what time it is, or raises Refused if the lockout (of reboots) or an inhibitor is in the way.
        if self.history.does_not_last:
            raise Refused("Failed", self.history.does_not_last)
        now = self.now()
        used, unlocks_at = self.history.lockout(now)
        if action == REBOOT and unlocks_at:
            window_s = self.history.window_s
            window = f"{window_s // 60} minutes" if window_s >= 120 and window_s % 60 == 0 else f"{window_s} seconds"
            reboots = "1 reboot" if used == 1 else f"{used} reboots"
            raise Refused("Lockout", f"{reboots} in the last {window}; next possible at {unlocks_at}")
        [locks] = await self.ask_or_refuse("Failed", LOGIND, "ListInhibitors", "", [])
        # systemd 252 lets root pass such a lock whatever the flags say (PR 30307). So we look ourselves.
        blocking = [lock for lock in locks if lock[3] == "block" and "shutdown" in lock[0].split(":")]
        if blocking:
            holders = "; ".join(f"{who}: {why} (pid {pid})" for _, who, why, _, _, pid in blocking)
            raise Refused("Inhibited", f"blocked by {holders}")
        return now

    async def start(self) -> None:
        # We ask systemd, because in a container /proc/uptime is the host's.
        [started_us] = await self.ask(
            SYSTEMD, "Get", "ss", ["org.freedesktop.systemd1.Manager", "UserspaceTimestampMonotonic"]
        )
        self.started_s = started_us.value / 1e6
        self.history.load(self.now())

    def now(self) -> Now:
        return Now(
            wall_s=time.time(),
            boot_id=self.boot_id,
            monotonic_s=time.clock_gettime(time.CLOCK_BOOTTIME),
            since_boot_s=time.monotonic() - self.started_s,
        )

    def set_wall_message(self, text: str) -> None:
        # Best effort, and we want no answer: the bus keeps the order of what we send to logind.
        self.bus.send(
            Message(*LOGIND, "SetWallMessage", flags=MessageFlag.NO_REPLY_EXPECTED, signature="sb", body=[text, True])
        )

    async def ask_or_refuse(
        self, error: str, whom: tuple[str, str, str], member: str, takes: str, body: list[Any]
    ) -> Any:
        # For questions that must be answered before anything is done: without an answer it raises Refused with `error`.
        try:
            return await self.ask(whom, member, takes, body)
        except BusRefused as no:
            raise Refused(error, str(no)) from no

    async def ask(self, whom: tuple[str, str, str], member: str, takes: str, body: list[Any]) -> Any:
        # Raises BusRefused with the error of the answer. NO_REPLY means: perhaps it was done all the same.
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                reply: Any = await self.bus.call(Message(*whom, member, signature=takes, body=body))
        except (TimeoutError, OSError, EOFError):
            raise BusRefused(NO_REPLY, f"{whom[0]} did not answer {member}") from None
        if reply.message_type is MessageType.ERROR:
            error = NO_REPLY if reply.error_name in UNANSWERED else reply.error_name
            text = reply.body[0] if reply.signature[:1] == "s" else reply.error_name
            raise BusRefused(error, f"{whom[0]} answered: {text}")
        return reply.body


def fault_of(message: Message) -> Refused | None:
    # Returns what is wrong with a call by itself, whoever sent it.
    member = MEMBERS.get((str(message.interface), message.member, message.signature))
    if message.path != PATH or member is None:
        return BusRefused(UNKNOWN_METHOD, "there is no such method here")
    if not all(what.fullmatch(word) for what, word in zip(member.arguments, message.body, strict=True)):
        return Refused("InvalidArgument", f"{message.member} cannot take {', '.join(message.body)!r}")
    return None


def close_descriptors(message: Message) -> None:
    # For every message: dbus-broker sends descriptors with its answers, and any caller may send some. We need none.
    for descriptor in message.unix_fds:
        os.close(descriptor)


# --- Start: the settings, the connection, and the end -----------------------------------------------------------------


def setting(name: str, default: str, most: int) -> int:
    text = os.environ.get(name, default)
    if re.fullmatch(r"[0-9]{1,9}", text) and 1 <= int(text) <= most:
        return int(text)
    refuse_to_start(f"{name} is {text!r}, but must be a whole number from 1 to {most}")


def refuse_to_start(why: str) -> NoReturn:
    # For faults that another start does not mend: after this exit code the unit does not try again.
    logging.error("cannot start: %s", why)
    sys.exit(os.EX_CONFIG)


async def serve(boot_id: str, history: History) -> None:
    # D-Bus's own default uses /var/run, which need not be a link to /run.
    address = os.environ.get("DBUS_SYSTEM_BUS_ADDRESS") or "unix:path=/run/dbus/system_bus_socket"
    # dbus-broker puts a descriptor into the answer about a caller, and drops a connection that accepts none.
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
    bus_is_gone = asyncio.ensure_future(bus.wait_for_disconnect())
    is_stopping = asyncio.ensure_future(helper.stopping.wait())
    await asyncio.wait((bus_is_gone, is_stopping), return_when=asyncio.FIRST_COMPLETED)
    if bus_is_gone.done():
        raise EOFError("the system bus is gone") from bus_is_gone.exception()
    # A call that came before we gave up the name is still ours; a later one starts the next helper.
    await bus.release_name(NAME)
    while helper.work:
        await asyncio.wait(helper.work)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if os.environ.get("JOURNAL_STREAM") == f"{os.fstat(2).st_dev}:{os.fstat(2).st_ino}":
        from systemd.journal import JournalHandler

        logging.getLogger().handlers = [JournalHandler(SYSLOG_IDENTIFIER="infoscreen-reboot-helper")]
    directory = os.environ.get("STATE_DIRECTORY")
    boot_id = os.environ.get("BOOT_ID")
    if not directory or not boot_id:
        refuse_to_start("infoscreen-reboot-helper.service sets STATE_DIRECTORY and BOOT_ID, which are missing")
    history = History(Path(directory), setting("LOCKOUT_LIMIT", "3", 100), setting("LOCKOUT_WINDOW_S", "900", 86400))
    try:
        asyncio.run(serve(boot_id, history))
    except (Refused, OSError, EOFError) as error:
        sys.exit(f"cannot go on: {error}")


if __name__ == "__main__":
    main()
