"""Says whether this server could reboot a client, and what to do if not; it changes nothing."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from uuid import UUID

from infoscreen_reboot.contract.topics import Topics
from infoscreen_reboot.controller import apprised, config, ics, ingest
from infoscreen_reboot.controller.calendars import content_of
from infoscreen_reboot.controller.config import Settings
from infoscreen_reboot.controller.freezing import merged
from infoscreen_reboot.controller.ics import Unreadable
from infoscreen_reboot.controller.leader import CLIENT_ID
from infoscreen_reboot.controller.power.hook import Hook
from infoscreen_reboot.controller.power.port import Backend, Port, PowerError
from infoscreen_reboot.controller.power.snmp import Snmp
from infoscreen_reboot.controller.store import deliveries, lease, power, schema
from infoscreen_reboot.controller.store.database import Database, StoreError
from infoscreen_reboot.controller.store.schema import SchemaTooNew
from infoscreen_reboot.mqtt.consumer import Consumer, Lost, Terms
from infoscreen_reboot.mqtt.messages import Message
from infoscreen_reboot.mqtt.packets import Protocol

_UNIT = "infoscreen-reboot-controller"
_SETTINGS = "/etc/infoscreen-reboot-controller"
_FREE_BYTES = 256 << 20
_SLOW_S = 0.5
_CLOCKS_DIFFER_S = 2.0
_PATIENCE_S = 5.0
# A topic of the kind on which commands go out, of a client that is none: nobody hears what is published there.
_NOBODY = Topics(str(UUID(int=0))).commands


class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """`text` says what was seen, `advice` what to do."""

    check: str
    verdict: Verdict
    text: str
    advice: str = ""


def diagnose(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Each finding as soon as it is known. If a check fails, those that depend on it are left out as no news."""
    for sentence in config.unknown_names(environment):
        yield Finding("configuration", Verdict.WARNING, sentence, "correct its name, or take it away")
    try:
        settings = config.load(environment)
        config.signer_of(settings)
    except config.ConfigError as error:
        for sentence in error.problems:
            advice = f"correct it in {_SETTINGS}, then: systemctl restart {_UNIT}"
            yield Finding("configuration", Verdict.PROBLEM, sentence, advice)
        return
    yield Finding("configuration", Verdict.OK, f"good; the API is at {settings.listen.address}")
    yield from _database(settings)
    yield from _broker(settings)
    yield from _notify(settings)
    yield from _calendar(settings)
    yield from _power(settings, config.credentials(environment))
    yield _clock()
    yield _disk(config.state_directory(environment))
    yield _api(settings)


def _database(settings: Settings) -> Iterator[Finding]:
    advice = "for SQLite: ls -l the file, df its disk; for PostgreSQL: systemctl status postgresql, and DATABASE_URL"
    try:
        database = Database(settings.database_url)
        if database.file is not None and not database.file.exists():
            text = f"there is no {database.file} yet"
            yield Finding("database", Verdict.PROBLEM, text, f"systemctl start {_UNIT} makes it")
            return
        began = time.monotonic()
        with database.write() as tx:
            took_s = time.monotonic() - began
            is_there = schema.check(tx)
            held = lease.standing(tx) if is_there else None
            now = tx.now
    except StoreError as error:
        advice = (
            "SQLite: look at the disk and at who owns the file; PostgreSQL: systemctl status postgresql, DATABASE_URL"
        )
        yield Finding("database", Verdict.PROBLEM, str(error), advice)
        return
    except SchemaTooNew as error:
        yield Finding("migrations", Verdict.PROBLEM, str(error), f"apt install {_UNIT}")
        return
    verdict = Verdict.OK if took_s < _SLOW_S else Verdict.WARNING
    advice = "" if verdict is Verdict.OK else "look for what else writes to this disk, or for a slow network"
    yield Finding("database", verdict, f"{database.address} can be written, after {took_s * 1000:.0f} ms", advice)
    if not is_there:
        yield Finding("migrations", Verdict.WARNING, f"to be brought to {schema.HEAD}", f"systemctl restart {_UNIT}")
        return
    yield Finding("migrations", Verdict.OK, f"the schema is {schema.HEAD}")
    apart_s = abs(now.timestamp() - time.time())
    if apart_s > _CLOCKS_DIFFER_S:
        text = f"the database's clock and this machine's are {apart_s:.0f} s apart"
        yield Finding("clock", Verdict.WARNING, text, "the database's counts; synchronise both: timedatectl")
    if held is None or held["holder"] is None or held["ends_at"] <= now:
        text = "no instance speaks with the broker"
        yield Finding("lease", Verdict.PROBLEM, text, f"systemctl status {_UNIT}; journalctl -u {_UNIT}")
    elif held["listening_since"] is None:
        text = f"{held['holder']} holds it, and does not hear the broker"
        yield Finding("lease", Verdict.PROBLEM, text, f"journalctl -u {_UNIT}")
    else:
        text = f"{held['holder']} hears the broker since {held['listening_since']:%Y-%m-%d %H:%M:%S} UTC"
        yield Finding("lease", Verdict.OK, text)


def _broker(settings: Settings) -> Iterator[Finding]:
    where = f"{settings.broker.host}:{settings.broker.port}"
    consumer = Consumer(settings.broker, f"{CLIENT_ID}-doctor", ingest.TOPICS, is_forgotten=True)
    try:
        consumer.connect()
        spoken = "MQTT 5" if consumer.protocol is Protocol.MQTT_5 else "MQTT 3.1.1"
        yield Finding("broker", Verdict.OK, f"{where} lets us in, with {spoken}")
        yield from _judge_terms(consumer.terms)
        refused = consumer.subscribe()
        if refused:
            text = f"the broker refuses the subscription to {', '.join(refused)}"
            yield Finding("subscribe", Verdict.PROBLEM, text, "give this login the right to read these topics")
        else:
            yield Finding("subscribe", Verdict.OK, f"it grants {len(ingest.TOPICS)} topics of the clients")
        yield _publish(consumer)
    except Lost as error:
        advice = f"look at the MQTT settings in {_SETTINGS}, and at the broker's log"
        yield Finding("broker", Verdict.PROBLEM, f"{where}: {error}", advice)
    finally:
        consumer.end()


def _judge_terms(terms: Terms) -> Iterator[Finding]:
    """What the broker says of itself that takes something away from us."""
    if terms.maximum_qos < 1:
        text = "it knows QoS 0 only: answers of clients can be lost"
        yield Finding("broker", Verdict.PROBLEM, text, "allow QoS 1; mosquitto: max_qos")
    if not terms.has_wildcards:
        text = "it allows no wildcards in subscriptions: clients cannot be heard"
        yield Finding("broker", Verdict.PROBLEM, text, "allow them, or take another broker")
    if not terms.has_retained:
        text = "it keeps no retained messages: after a start, a client counts as it stood before until it speaks again"
        yield Finding("broker", Verdict.WARNING, text, "allow them; mosquitto: retain_available true")


def _publish(consumer: Consumer) -> Finding:
    packet_id = consumer.publish(Message(_NOBODY, b""))
    until = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until:
        received, pubacks = consumer.receive(500, 0.2)
        consumer.acknowledge(received)
        for puback in pubacks:
            if puback.packet_id == packet_id:
                return _judge_publish(puback.is_refusal)
    return Finding("publish", Verdict.PROBLEM, "the broker does not answer a publish", "look at the broker's log")


def _judge_publish(is_refused: bool) -> Finding:
    if is_refused:
        advice = "give this login the right to write to infoscreen/+/commands"
        return Finding("publish", Verdict.PROBLEM, "the broker refuses a command", advice)
    return Finding("publish", Verdict.OK, "the broker takes a command")


def _notify(settings: Settings) -> Iterator[Finding]:
    """Whether anybody hears when something is wrong."""
    notify = settings.notify
    for fault in notify.faults:
        yield Finding("notify", Verdict.PROBLEM, fault, f"correct it, then: systemctl restart {_UNIT}")
    for target in notify.targets:
        fault_of_target = None if target.is_webhook else apprised.fault_of(target)
        if fault_of_target is not None:
            advice = f"correct its line in {notify.file}, then: systemctl restart {_UNIT}"
            yield Finding("notify", Verdict.PROBLEM, f"{target.name}: {fault_of_target}", advice)
    if not (notify.targets or notify.faults):
        text = f"nobody is told when a client needs a person: {notify.file} names no target"
        yield Finding("notify", Verdict.OK, text)
    try:
        database = Database(settings.database_url)
        if database.file is not None and not database.file.exists():
            return
        with database.read() as tx:
            undelivered = deliveries.undelivered(tx) if schema.check(tx) else []
    except (StoreError, SchemaTooNew):
        return  # the check of the database has said so
    for row in undelivered:
        count = row["waiting"] + row["failed"]
        messages = "1 message" if count == 1 else f"{count} messages"
        text = f"{row['target']} has not taken {messages} of the last day: {row['words']}"
        yield Finding("notify", Verdict.PROBLEM, text, f"infoscreen-rebootctl notify test {row['target']}")
    if notify.targets and not undelivered and not notify.faults:
        yield Finding("notify", Verdict.OK, f"who is told: {', '.join(target.name for target in notify.targets)}")


def _calendar(settings: Settings) -> Iterator[Finding]:
    """Read here and now: the controller says in its log, and in `status`, how it fared."""
    file = settings.freeze_calendar
    if file is None:
        return
    try:
        events = merged(ics.read(content_of(file), settings.fleet_zone, datetime.now(UTC)))
    except Unreadable as error:
        text = f"{file} cannot be read, the last good one counts: {error}"
        yield Finding("calendar", Verdict.WARNING, text, f"ls -l {file}; the file has to be an .ics")
        return
    text = f"{file} has {len(events)} freezes in the next 400 days"
    for event in events[:1]:
        text += f", the next from {event.begins_at:%Y-%m-%d %H:%M} to {event.until:%Y-%m-%d %H:%M} UTC"
    yield Finding("calendar", Verdict.OK, text)


def _power(settings: Settings, profiles: Path | None) -> Iterator[Finding]:
    """Whether each kind of port could be switched. No switch is asked: `power test` does that."""
    try:
        database = Database(settings.database_url)
        if database.file is not None and not database.file.exists():
            return
        with database.read() as tx:
            is_there = schema.check(tx)
            rows = power.port_rows(tx) if is_there else []
            held_off = len(power.held_off(tx)) if is_there else 0
    except (StoreError, SchemaTooNew):
        return  # the check of the database has said so
    if held_off:
        text = f"{_ports(held_off)} should be on again by now, and may be off"
        yield Finding("power", Verdict.PROBLEM, text, "infoscreen-rebootctl power restore")
    kinds = {(port.backend, port.profile): port for port in map(power.port_in, rows)}
    faults = [fault for port in kinds.values() if (fault := _fault_of(port, profiles)) is not None]
    for fault in faults:
        yield Finding("power", Verdict.PROBLEM, fault, "infoscreen-rebootctl power test CLIENT")
    if rows and not (faults or held_off):
        yield Finding("power", Verdict.OK, f"{_ports(len(rows))}; what switches them is there")


def _ports(count: int) -> str:
    return "1 port" if count == 1 else f"{count} ports"


def _fault_of(port: Port, profiles: Path | None) -> str | None:
    try:
        match port.backend:
            case Backend.SNMP:
                Snmp(profiles).check(port)
            case Backend.HOOK:
                Hook().check(port)
            case Backend.DRY_RUN:
                pass
    except PowerError as error:
        return str(error)
    return None


def _clock() -> Finding:
    asked = ["timedatectl", "show", "--property=NTPSynchronized", "--value"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=_PATIENCE_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("clock", Verdict.WARNING, f"cannot tell: {error}", "timedatectl")
    if done.stdout.strip() == "yes":
        return Finding("clock", Verdict.OK, "synchronised")
    text = "not synchronised: clients refuse commands whose times are wrong"
    return Finding("clock", Verdict.PROBLEM, text, "timedatectl; apt install systemd-timesyncd")


def _disk(state: Path) -> Finding:
    if not os.access(state, os.W_OK):
        return Finding("disk", Verdict.PROBLEM, f"{state} cannot be written", f"ls -ld {state}; mount | grep ' ro,'")
    free = shutil.disk_usage(state).free
    text = f"{state} has {free >> 20} MiB left"
    if free < _FREE_BYTES:
        return Finding("disk", Verdict.PROBLEM, text, "du -xh / | sort -h | tail; KEEP_DAYS keeps less")
    return Finding("disk", Verdict.OK, text)


def _api(settings: Settings) -> Finding:
    where = settings.listen
    try:
        if where.path is not None:
            with socket.socket(socket.AF_UNIX) as unix:
                unix.settimeout(_PATIENCE_S)
                unix.connect(str(where.path))
        else:
            host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(where.host, where.host)
            socket.create_connection((host, where.port), _PATIENCE_S).close()
    except OSError as error:
        text = f"{where.address} does not answer: {error.strerror or error}"
        return Finding("api", Verdict.PROBLEM, text, f"systemctl status {_UNIT}; journalctl -u {_UNIT}")
    return Finding("api", Verdict.OK, f"{where.address} answers")
