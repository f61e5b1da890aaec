"""Says what the facts about this machine mean for a remote reboot: facts in, findings out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from infoscreen_reboot.client.doctor import firmware, tuning
from infoscreen_reboot.client.doctor.finding import Finding, Verdict, ok, problem, warning
from infoscreen_reboot.client.doctor.firmware import RaspberryPi
from infoscreen_reboot.client.doctor.tuning import Setting

AGENT, HELPER = "infoscreen-simclient", "infoscreen-reboot-helper"
# The probe makes these checks as the agent. Each needs those before it; the probe goes as far as it can.
BROKER_CHECKS = (
    *("configuration", "name resolution", "TCP", "TLS"),
    *("login", "protocol", "will", "broker", "subscribe", "publish"),
)
# If two clients have one id, at least so many connections end in so many minutes, whatever the clients' pauses are.
LOSSES_COUNT_FOR_MIN = 10
_MANY_LOSSES = 4
_NEARLY_FULL_BYTES = 8 << 20
_NO_LOGIN = "/usr/sbin/nologin", "/sbin/nologin", "/bin/false", "/usr/bin/false"
_TIME_DAEMONS = {
    "systemd-timesyncd.service": (
        "timedatectl timesync-status; set a time server that is reached from here in /etc/systemd/timesyncd.conf"
    ),
    "chrony.service": "chronyc -n sources; name a server in reach in /etc/chrony/sources.d/site.sources",
    "openntpd.service": "ntpctl -s all; name a server in reach in /etc/openntpd/ntpd.conf",
    "ntpsec.service": "ntpq -pn; name a server in reach in /etc/ntpsec/ntp.conf",
}
TIME_DAEMONS = tuple(_TIME_DAEMONS)
# What the helper may answer about a reboot although nothing is broken.
_OF_THE_MOMENT = None, "", "lockout", "inhibited"
# The kernel's last write to a dead disk takes up to eight timeouts, and a reboot may take 150 s; docs/ssd-tuning.md.
_DISK_TIMEOUTS_S = range(7, 14)


@dataclass(frozen=True, slots=True)
class Probe:
    """What the probe found out as the agent's user. `stopped` says why it did not come to its end; "" if it did."""

    findings: Sequence[Finding]
    needs_clock: bool = True
    offers_shutdown: bool = True
    is_mock: bool = False
    stopped: str = ""


@dataclass(frozen=True, slots=True)
class Preview:
    """What the helper answers root about an action. `code`: "" for yes, a code of the contract, None for no answer."""

    code: str | None
    text: str = ""


@dataclass(frozen=True, slots=True)
class Consent:
    """What polkit says about the running agent; None if that is not known, and then why."""

    reboot: bool | None
    shutdown: bool | None
    unknown_because: str = ""
    polkit_answers: bool = True


@dataclass(frozen=True, slots=True)
class Watchdog:
    """`device` as /dev has it, "" for none; `runtime` as systemctl shows RuntimeWatchdogUSec."""

    device: str
    is_software: bool
    is_armed: bool
    runtime: str


@dataclass(frozen=True, slots=True)
class Account:
    """The agent's account, as passwd and shadow have it. A locked password counts as none."""

    name: str
    shell: str
    has_password: bool


@dataclass(frozen=True, slots=True)
class Room:
    """What a directory's file system has left; None if it has no limit. `is_full` is judged as the agent judges it."""

    directory: str
    free_bytes: int | None
    free_files: int | None
    is_full: bool
    is_read_only: bool


@dataclass(frozen=True, slots=True)
class Losses:
    """How often the broker gave the agent's session to another, or only closed it; over LOSSES_COUNT_FOR_MIN."""

    taken_over: int = 0
    closed: int = 0


@dataclass(frozen=True, slots=True)
class Facts:
    probe: Probe
    reboot: Preview
    shutdown: Preview
    consent: Consent
    clock_is_synchronised: bool
    time_daemons: Sequence[str]  # the units of those that run
    bus: str  # the unit that is the system bus
    account: Account | None
    rooms: Sequence[Room]
    losses: Losses
    unit: Mapping[str, str]  # of the agent, as systemctl shows it
    container: str  # its kind, "" if this is none
    watchdog: Watchdog
    disk_timeouts_s: Mapping[str, int]  # of USB disks
    settings: Sequence[Setting]
    pi: RaspberryPi | None
    clock_took_s: int | None = None  # from the network to the right clock; None if nobody measured it


def diagnose(facts: Facts) -> list[Finding]:
    """Findings in the order of importance. If a check failed, those that depend on it are left out as no news."""
    return [
        *_broker(facts.probe),
        *_helper(facts),
        *_clock(facts),
        *_agent(facts),
        *_clones(facts.losses),
        *_disk(facts.rooms),
        *_account(facts.account),
        ok("bus", f"the system bus is {facts.bus}"),
        *_watchdog(facts),
        *_disks(facts),
        *tuning.judge(facts.settings),
        *(firmware.judge(facts.pi) if facts.pi else ()),
    ]


def _broker(probe: Probe) -> Iterator[Finding]:
    yield from probe.findings
    if probe.stopped and not _has_problem(probe):
        done = [finding.check for finding in probe.findings]
        check = next((name for name in BROKER_CHECKS if name not in done), BROKER_CHECKS[-1])
        yield problem(check, f"cannot tell: {probe.stopped}", f"systemctl status {AGENT}; journalctl -u {AGENT}")


def _has_problem(probe: Probe, *checks: str) -> bool:
    return any(f.verdict is Verdict.PROBLEM and (not checks or f.check in checks) for f in probe.findings)


def _helper(facts: Facts) -> Iterator[Finding]:
    """polkit always allows root. So the helper's answer to root is the helper's own opinion."""
    if not facts.consent.polkit_answers:
        yield problem("polkit", facts.consent.unknown_because, "systemctl unmask polkit; systemctl restart polkit")
        return
    is_there = facts.reboot.code is not None
    if is_there:
        yield ok("helper", "it answers")
    else:
        advice = f"systemctl unmask {HELPER}; journalctl -u {HELPER}"
        yield problem("helper", f"it cannot be reached: {facts.reboot.text}", advice)
    yield _consent(facts)
    if not is_there:
        return
    if facts.reboot.code not in _OF_THE_MOMENT and facts.reboot == facts.shutdown:
        # Most likely a reboot empties its state directory, as it does the agent's; another finding says so.
        if not _has_problem(facts.probe, "state"):
            yield problem("helper", f"it refuses: {facts.reboot.text}", f"journalctl -u {HELPER}")
        return
    if facts.reboot.code == "lockout":
        advice = "wait until then; and find out who sends so many reboots: infoscreen-reboot history"
        yield problem("lockout", facts.reboot.text, advice)
    else:
        yield ok("lockout", "a reboot would be let through")
    # A shutdown does not count for the lockout, so the answer about it is about inhibitor locks alone.
    match facts.shutdown.code:
        case "":
            yield ok("inhibitors", "nobody blocks a shutdown")
        case "inhibited":
            yield problem("inhibitors", facts.shutdown.text, "let it finish, or stop it; systemd-inhibit --list")
        case code:
            told = f"cannot tell: {facts.shutdown.text or code}"
            yield problem("inhibitors", told, f"journalctl -u {HELPER} -u systemd-logind")


def _consent(facts: Facts) -> Finding:
    consent = facts.consent
    if consent.reboot is None:
        advice = f"start the agent and ask again: systemctl start {AGENT}"
        return warning("polkit", f"cannot tell: {consent.unknown_because}", advice)
    rules = "look for the rule in /etc/polkit-1/rules.d and /usr/share/polkit-1/rules.d"
    if not consent.reboot:
        text = "it does not let the agent reboot"
        return problem("polkit", text, f"{rules}; apt-get install --reinstall infoscreen-reboot brings ours back")
    if facts.probe.offers_shutdown and not consent.shutdown:
        text = "it lets the agent reboot, but not shut down, which the agent offers"
        return warning("polkit", text, f"set COMMAND_SHUTDOWN_ENABLED=no if that is meant; else {rules}")
    return ok("polkit", "it lets the agent reboot" + " and shut down" * bool(consent.shutdown))


def _clock(facts: Facts) -> Iterator[Finding]:
    names = " and ".join(name.removesuffix(".service") for name in facts.time_daemons)
    if facts.clock_is_synchronised:
        took = "" if facts.clock_took_s is None else f" {facts.clock_took_s} s after the network came"
        yield ok("clock", f"synchronised{took}" + f"; {names} runs" * bool(names))
        return
    advice = "no time daemon runs here: apt-get install systemd-timesyncd"
    if facts.time_daemons:
        advice = f"{names} runs: " + "; ".join(_TIME_DAEMONS[name] for name in facts.time_daemons)
    if facts.probe.needs_clock:
        yield problem("clock", "not synchronised, so every command is refused in the end", advice)
    else:
        yield warning("clock", "not synchronised, and COMMAND_REQUIRE_SYNCED_CLOCK is off", advice)


def _agent(facts: Facts) -> Iterator[Finding]:
    if _has_problem(facts.probe, "configuration"):
        return  # it cannot run, and another finding says so
    unit = facts.unit
    status = unit["StatusText"]
    found = []
    if facts.probe.is_mock:
        advice = "if this is no canary: take COMMAND_EXECUTOR=mock out of /etc/infoscreen-reboot"
        found.append(warning("agent", "its executor is a mock: no command is ever executed here", advice))
    if unit["UnitFileState"] != "enabled":
        text = f"it is {unit['UnitFileState'] or unit['LoadState']}: after a reboot it does not come back"
        found.append(problem("agent", text, f"systemctl unmask {AGENT}; systemctl enable --now {AGENT}"))
    elif unit["ActiveState"] != "active":
        # systemd keeps the last status text of a unit that has ended. It tells something only if the unit has failed.
        last_words = f", it said: {status}" if unit["ActiveState"] == "failed" and status else ""
        text = f"it is not running: {unit['ActiveState']} ({unit['Result']}){last_words}"
        found.append(problem("agent", text, f"journalctl -u {AGENT}; then: systemctl restart {AGENT}"))
    elif not _has_problem(facts.probe) and "connected to " not in status:
        advice = f"wait for its next attempt, or: systemctl restart {AGENT}"
        found.append(warning("agent", f"the broker would let it in, but it says: {status}", advice))
    if unit["NeedDaemonReload"] == "yes":
        advice = f"systemctl daemon-reload; systemctl restart {AGENT}"
        found.append(warning("agent", "its unit was changed, and systemd has not read it again", advice))
    yield from found or [ok("agent", f"running and enabled; it says: {status}")]


def _clones(losses: Losses) -> Iterator[Finding]:
    """Two hosts with one client UUID, as on cloned cards, throw each other out, and a command goes to one of them."""
    advice = (
        "look for the other: infoscreen-reboot check-config shows the same client there. Give each a CLIENT_UUID of "
        "its own, or empty /etc/machine-id on the clone and reboot it"
    )
    lately = f"in the last {LOSSES_COUNT_FOR_MIN} minutes"
    if losses.taken_over > 1:
        text = f"another host has taken this client's session {losses.taken_over} times {lately}"
        yield problem("clones", f"{text}: two hosts have this client's UUID", advice)
    elif losses.taken_over:
        yield warning("clones", f"another host has taken this client's session {lately}", advice)
    elif losses.closed >= _MANY_LOSSES:
        text = f"the broker has closed this client's connection {losses.closed} times {lately}"
        yield warning("clones", f"{text}, as it does when two hosts have one UUID", advice)
    else:
        yield ok("clones", "nobody takes this client's session")


def _disk(rooms: Sequence[Room]) -> Iterator[Finding]:
    sound = True
    for room in rooms:
        size = "any" if room.free_bytes is None else room.free_bytes // 1024
        files = "any number of" if room.free_files is None else room.free_files
        free = f"{room.directory} has {size} KiB left for {files} more files"
        advice = f"find what fills it: df -h {room.directory}; df -i {room.directory}; du -xh / | sort -h | tail"
        if room.is_read_only:
            yield problem("disk", f"{room.directory} is read-only", "dmesg; then check the file system, and the disk")
        elif room.is_full:
            yield problem("disk", f"it is full: {free}", advice)
        elif room.free_bytes is not None and room.free_bytes < _NEARLY_FULL_BYTES:
            yield warning("disk", f"it is nearly full: {free}", advice)
        else:
            continue
        sound = False
    if sound:
        yield ok("disk", "there is room for agent and helper")


def _account(account: Account | None) -> Iterator[Finding]:
    if account is None:
        return  # then the unit does not start, and says so
    is_login = account.shell not in _NO_LOGIN
    if not is_login and not account.has_password:
        yield ok("account", f"nobody logs in as {account.name}")
        return
    why = [f"its shell is {account.shell}"] * is_login + ["it has a password"] * account.has_password
    text = f"{account.name} is an account for logins ({' and '.join(why)}): who is in it can do what the agent can"
    yield warning("account", text, f"usermod --lock --shell {_NO_LOGIN[0]} {account.name}")


def _watchdog(facts: Facts) -> Iterator[Finding]:
    watchdog = facts.watchdog
    if facts.container:
        yield ok("watchdog", f"in a container ({facts.container}) it is the host's")
    elif not watchdog.device and facts.pi is None:
        yield ok("watchdog", "this machine has none")
    elif not watchdog.device:
        advice = "look for bcm2835_wdt in dmesg; without it a hung kernel stays hung"
        yield warning("watchdog", "a Raspberry Pi has one, but there is no /dev/watchdog0", advice)
    elif watchdog.is_software:
        advice = "take softdog out of /etc/modules-load.d and load the machine's own watchdog driver"
        yield warning("watchdog", "it is softdog, which hangs with the kernel that it should watch", advice)
    elif watchdog.is_armed and tuning.seconds(watchdog.runtime):
        yield ok("watchdog", f"{watchdog.device} is armed: systemd has {watchdog.runtime} for each sign of life")
    else:
        advice = "set RuntimeWatchdogSec=60s in /etc/systemd/system.conf.d/, then: systemctl daemon-reexec"
        yield warning("watchdog", f"{watchdog.device} is not armed: a hung kernel stays hung", advice)


def _disks(facts: Facts) -> Iterator[Finding]:
    if facts.container:
        yield ok("SSD timers", f"in a container ({facts.container}) they are the host's")
        return
    wrong = {disk: s for disk, s in facts.disk_timeouts_s.items() if s not in _DISK_TIMEOUTS_S}
    for disk, timeout_s in wrong.items():
        low, high = _DISK_TIMEOUTS_S[0], _DISK_TIMEOUTS_S[-1]
        advice = "udevadm control --reload; udevadm trigger --action=change --subsystem-match=block"
        text = f"/sys/block/{disk}/device/timeout is {timeout_s} s, outside {low} to {high} s"
        yield warning("SSD timers", f"{text}: a dead disk would hold up the reboot or a slow one be given up", advice)
    if not wrong:
        good = ", ".join(f"{disk} has {s} s" for disk, s in facts.disk_timeouts_s.items())
        yield ok("SSD timers", good or "no USB disk")
