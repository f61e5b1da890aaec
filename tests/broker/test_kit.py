"""The broker kit of docs/examples/mosquitto, as it stands: who may do what, tried, by both ways in."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from infoscreen_reboot.client import config
from infoscreen_reboot.client.doctor import probe
from infoscreen_reboot.client.doctor.finding import Verdict
from infoscreen_reboot.client.notifier.notify_failure import Sender
from infoscreen_reboot.contract.telemetry import MAX_LOG_LINES, FailureAlert, encode_failure_alert
from infoscreen_reboot.contract.topics import Leaf, Topics
from infoscreen_reboot.mqtt import session as sessions
from infoscreen_reboot.mqtt.messages import Delivery, Message
from infoscreen_reboot.mqtt.session import Presence, Session
from tests.broker.conftest import PATIENCE_S, Run
from tests.broker.inbox import trouble_of
from tests.broker.kit import (
    ADMIN,
    CLIENT,
    COMMANDS,
    CONTROLLER,
    KIT,
    OTHER,
    PASSWORD,
    POSTS,
    TOLD,
    KitBroker,
    others,
)

WAYS = ("login", "certificate")
EVERY = sorted(COMMANDS | TOLD | others(COMMANDS | TOLD))
ELSEWHERE = [
    f"infoscreen/{CLIENT}/other",
    f"infoscreen/{CLIENT}",
    "infoscreen",
    f"{CLIENT}/status",
    "other/topic",
    "$SYS/x",
]
CLEARED = {f"infoscreen/{client}/{leaf}" for client in (CLIENT, OTHER) for leaf in ("status", "boot", "service_failed")}
# Who may publish where; nobody anywhere else.
MAY_SAY = {CLIENT: TOLD, OTHER: others(TOLD), CONTROLLER: COMMANDS | others(COMMANDS), ADMIN: CLEARED}


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KitBroker]:
    """One for all: nobody here changes what another finds."""
    broker = KitBroker(tmp_path_factory.mktemp("kit"))
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[KitBroker]:
    """One to be changed; not started yet."""
    broker = KitBroker(tmp_path)
    yield broker
    broker.kill()


def word(allowed: bool) -> str:
    return "allowed" if allowed else "refused"


SAYS = [
    pytest.param(way, who, topic, topic in MAY_SAY[who], id=f"{who} by {way} on {topic}: {word(topic in MAY_SAY[who])}")
    for way in WAYS
    for who in (CLIENT, CONTROLLER, ADMIN)
    for topic in EVERY + ELSEWHERE
]


@pytest.mark.parametrize(("way", "who", "topic", "allowed"), SAYS)
def test_who_may_publish_where(kit: KitBroker, way: str, who: str, topic: str, allowed: bool) -> None:
    with kit.hearing(kit.by_login(CONTROLLER), "infoscreen/#") as ear:
        told = kit.says(kit.by(way, who), topic, "word")
        assert (topic, "word") in ear.heard() or not allowed
    assert ("Not authorized" in told) == (not allowed), told


HEARS: dict[str, dict[str, set[str]]] = {
    # What the controller of this project subscribes to.
    **{leaf.filter: {CONTROLLER: {f"infoscreen/{client}/{leaf}" for client in (CLIENT, OTHER)}} for leaf in Leaf},
    "#": {CLIENT: COMMANDS, CONTROLLER: set(EVERY), ADMIN: set(EVERY)},
    "infoscreen/#": {CLIENT: COMMANDS, CONTROLLER: set(EVERY), ADMIN: set(EVERY)},
    "infoscreen/+/commands": {CLIENT: {Topics(CLIENT).commands}},
    "infoscreen/+/commands/ack": {CLIENT: set(), CONTROLLER: {Topics(c).commands_ack for c in (CLIENT, OTHER)}},
    f"infoscreen/{CLIENT}/#": {CLIENT: COMMANDS},
    f"infoscreen/{OTHER}/commands": {CLIENT: set()},
    f"infoscreen/{OTHER}/#": {CLIENT: set()},
    f"infoscreen/{OTHER}/status": {CLIENT: set(), ADMIN: {Topics(OTHER).status}},
    "+/+/+": {CLIENT: COMMANDS},
    "$SYS/#": {CLIENT: set(), CONTROLLER: set(), ADMIN: set()},
    "$share/any/infoscreen/#": {CLIENT: COMMANDS},
    f"$share/any/infoscreen/{OTHER}/commands": {CLIENT: set()},
}
LISTENS = [
    pytest.param(way, who, topic, hears, id=f"{who} by {way} to {topic}: {len(hears) or 'nothing'}")
    for way in WAYS
    for topic, row in HEARS.items()
    for who, hears in row.items()
]


@pytest.mark.parametrize(("way", "who", "topic", "hears"), LISTENS)
def test_who_really_hears_what(kit: KitBroker, way: str, who: str, topic: str, hears: set[str]) -> None:
    """Each topic of two clients is said something on, by who may; the broker grants every subscription."""
    with kit.hearing(kit.by(way, who), topic) as ear:
        for publisher in (CLIENT, OTHER, CONTROLLER):
            for said_on in sorted(MAY_SAY[publisher]):
                assert kit.says(kit.by_login(publisher), said_on, "word") == ""
        heard = ear.heard()
    # The markers' topics are subscribed to in any case.
    assert {one for one, _ in heard} - set(POSTS) == hears - set(POSTS)


INTRUDERS: dict[str, Callable[[KitBroker, Path], list[str]]] = {
    "nobody at all": lambda kit, _: kit.by_login(None),
    "a wrong password": lambda kit, _: kit.by_login(CLIENT, "open barley"),
    "an empty password": lambda kit, _: kit.by_login(CLIENT, ""),
    "an unknown user": lambda kit, _: kit.by_login(str(uuid4())),
    "a login without TLS": lambda kit, _: without_tls(kit.by_login(CLIENT)),
    "no TLS where certificates are wanted": lambda kit, _: without_tls(on(kit.tls_port, kit.by_login(CLIENT))),
    "a login where certificates are wanted": lambda kit, _: on(kit.tls_port, kit.by_login(CLIENT)),
    "a certificate where logins are wanted": lambda kit, _: on(kit.port, kit.by_certificate(CLIENT)),
    "an expired certificate": lambda kit, folder: kit.by_certificate(expired(kit, folder), folder),
    "a certificate of another authority": lambda kit, folder: kit.by_certificate(foreign(kit, folder), folder),
    "a certificate that it signed itself": lambda kit, folder: kit.by_certificate(self_signed(folder), folder),
    "the broker's own certificate": lambda kit, _: kit.by_certificate("broker"),
    "another client's certificate and its own key": lambda kit, folder: kit.by_certificate(mixed(kit, folder), folder),
}


def without_tls(came: list[str]) -> list[str]:
    at = came.index("--cafile")
    return came[:at] + came[at + 2 :]


def on(port: int, came: list[str]) -> list[str]:
    at = came.index("-p")
    return [*came[: at + 1], str(port), *came[at + 2 :]]


def expired(kit: KitBroker, folder: Path) -> str:
    kit.expire(CLIENT, folder)
    return CLIENT


def foreign(kit: KitBroker, folder: Path) -> str:
    kit.certificates("authority", folder=folder)
    kit.certificates("user", CLIENT, folder=folder)
    return CLIENT


def self_signed(folder: Path) -> str:
    key = "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", f"{CLIENT}.key"
    argv = ["openssl", "req", "-x509", *key, "-subj", f"/CN={CLIENT}", "-out", f"{CLIENT}.crt"]
    subprocess.run(argv, cwd=folder, check=True, capture_output=True)
    return CLIENT


def mixed(kit: KitBroker, folder: Path) -> str:
    shutil.copy(kit.certs / f"{CLIENT}.crt", folder)
    shutil.copy(kit.certs / f"{OTHER}.key", folder / f"{CLIENT}.key")
    return CLIENT


@pytest.mark.parametrize("who", INTRUDERS)
def test_who_does_not_get_in(kit: KitBroker, tmp_path: Path, who: str) -> None:
    before = kit.log().count("New client connected")
    topic = Topics(CLIENT).health
    assert kit.says(INTRUDERS[who](kit, tmp_path), topic, "word")
    assert kit.log().count("New client connected") == before
    # The same word from whom it may come from.
    assert kit.says(kit.by_login(CLIENT), topic, "word") == ""


def test_a_certificate_says_who_one_is_whatever_login_comes_with_it(kit: KitBroker) -> None:
    login = ["-u", CLIENT, "-P", "whatever"]
    with kit.hearing(kit.by_login(CONTROLLER), "infoscreen/#") as ear:
        assert "Not authorized" in kit.says([*kit.by_certificate(OTHER), *login], Topics(CLIENT).health, "stranger")
        assert kit.says([*kit.by_certificate(OTHER), *login], Topics(OTHER).health, "self") == ""
        assert ear.heard() == [(Topics(OTHER).health, "self")]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "topic", [Topics(CLIENT).status, Topics(OTHER).status, Topics(CLIENT).commands, Topics(OTHER).boot]
)
def test_the_broker_says_a_dead_clients_will_only_where_the_client_may_speak(
    kit: KitBroker, way: str, topic: str
) -> None:
    client_id = str(uuid4())
    will = ["--will-topic", topic, "--will-payload", "last", "--will-qos", "1", "-i", client_id]
    with kit.hearing(kit.by_login(CONTROLLER), "infoscreen/#") as ear:
        with kit.hearing([*kit.by(way, CLIENT), *will]):
            pass  # it is killed, and says no goodbye
        wait_log(kit, f"Client {client_id} ")
        assert ear.heard() == ([(topic, "last")] if topic in TOLD else [])


def wait_log(kit: KitBroker, text: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not any(text in line and "onnect" in line.partition(text)[2] for line in kit.log().splitlines()):
        assert time.monotonic() < deadline, text
        time.sleep(0.01)


@pytest.mark.parametrize("way", WAYS)
def test_the_agent_refuses_a_broker_whose_certificate_has_another_name_or_has_expired(
    own: KitBroker, run: Run, way: str
) -> None:
    async def story() -> None:
        settings = settings_of(own, way).broker
        own.expire("broker", own.certs)
        own.start()
        assert "the broker's certificate is not accepted: certificate has expired; next" in await trouble_of(settings)
        own.stop()
        own.certificates("broker", "broker.example")
        own.start()
        told = await trouble_of(settings)
        assert "not accepted: IP address mismatch, certificate is not valid for '127.0.0.1'; next" in told

    run(story())


@pytest.mark.parametrize("way", WAYS)
def test_the_agent_refuses_a_broker_that_shows_a_clients_certificate_or_one_of_another_authority(
    own: KitBroker, run: Run, tmp_path: Path, way: str
) -> None:
    """A client that was taken over has a certificate of the right authority, too, be the name in it what it may."""

    async def story() -> None:
        settings = settings_of(own, way).broker
        own.certificates("user", OTHER)
        for kind in ("crt", "key"):
            shutil.copy(own.certs / f"{OTHER}.{kind}", own.certs / f"broker.{kind}")
        own.start()
        assert "certificate is not accepted: unsuitable certificate purpose" in await trouble_of(settings)
        own.stop()
        (folder := tmp_path / "foreign").mkdir()
        own.certificates("authority", folder=folder)
        own.certificates("broker", own.host, folder=folder)
        for name in ("broker.crt", "broker.key"):
            shutil.copy(folder / name, own.certs)
        own.start()
        assert "the broker's certificate is not accepted: " in await trouble_of(settings)

    run(story())


def settings_of(kit: KitBroker, way: str) -> config.Settings:
    """As the kit's README has a client configured."""
    environment = {"MQTT_BROKER": kit.host, "MQTT_TLS_CA": str(kit.certs / "ca.crt"), "CLIENT_UUID": CLIENT}
    if way == "login":
        environment |= {"MQTT_PORT": str(kit.port), "MQTT_USER": CLIENT, "MQTT_PASSWORD_BROKER": PASSWORD}
    else:
        shown = {
            f"MQTT_TLS_{kind}": str(kit.certs / f"{CLIENT}.{end}") for kind, end in (("CERT", "crt"), ("KEY", "key"))
        }
        environment |= {"MQTT_PORT": str(kit.tls_port), **shown}
    return config.load(environment)


def session_of(kit: KitBroker, way: str, inbox: asyncio.Queue[Delivery], **options: Any) -> Session:
    """The agent's: its client id, its topics, its will; `options` are more of the session's own."""
    topics = Topics(CLIENT)
    presence = Presence(Message(topics.status, b"lost", retain=True), Message(topics.status, b"online", retain=True))
    return Session(
        settings_of(kit, way).broker,
        client_id=f"infoscreen-{CLIENT}",
        subscriptions=[topics.commands, topics.transitional_command],
        presence=lambda: presence,
        on_message=inbox.put_nowait,
        **options,
    )


async def received(inbox: asyncio.Queue[Delivery], payload: bytes) -> str:
    """The topic of the delivery that has it; markers are not looked at."""
    async with asyncio.timeout(PATIENCE_S):
        while (delivery := await inbox.get()).payload != payload:
            assert delivery.payload.startswith(b"marker-"), delivery
    return delivery.topic


@contextlib.asynccontextmanager
async def running(session: Session) -> AsyncIterator[None]:
    """Connected when the block begins; ends as a power cut does."""
    task = asyncio.create_task(session.run(), name="session")
    try:
        async with asyncio.timeout(PATIENCE_S):
            await session.wait_connected()
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("way", WAYS)
def test_all_that_a_client_does_works(kit: KitBroker, run: Run, way: str) -> None:
    topics = Topics(CLIENT)
    alert = FailureAlert(
        client_uuid=CLIENT, unit="player.service", result="exit-code", exit_status=1, restarts=3, boot_id=OTHER,
        timestamp=datetime.now(UTC), last_log_lines=("\x1b" * 500,) * MAX_LOG_LINES,
    )  # fmt: skip

    async def story() -> None:
        inbox: asyncio.Queue[Delivery] = asyncio.Queue()
        session = session_of(kit, way, inbox)
        with kit.hearing(kit.by_login(ADMIN), "infoscreen/#") as ear:
            async with running(session):
                for topic in (topics.commands, topics.transitional_command):
                    assert await asyncio.to_thread(kit.says, kit.by_login(CONTROLLER), topic, topic) == ""
                    assert await received(inbox, topic.encode()) == topic
                for topic in (topics.commands_ack, topics.transitional_ack, topics.health, topics.boot):
                    await session.publish(Message(topic, b"word", qos=0 if topic == topics.health else 1))
                # The longest alert that there can be, by the notifier; the agent takes it back.
                payload = encode_failure_alert(alert)
                notifier = Sender(settings_of(kit, way).broker, "notifier")
                await notifier.send(Message(topics.service_failed, payload, retain=True))
                await session.publish(Message(topics.service_failed, b"", retain=True))
                await session.leave(Message(topics.status, b"stopped", retain=True), PATIENCE_S)
            said = [(topic, words if len(words) < 9 else "long") for topic, words in await asyncio.to_thread(ear.heard)]
        wanted = [(topics.commands_ack, "word"), (topics.transitional_ack, "word"), (topics.health, "word")]
        wanted += [(topics.boot, "word"), (topics.service_failed, "long"), (topics.service_failed, "")]
        wanted += [(topics.status, "stopped")]
        assert [one for one in said if one[0] not in COMMANDS] == [(topics.status, "online"), *wanted]

    run(story())


@pytest.mark.parametrize("way", WAYS)
def test_the_doctor_finds_nothing_wrong_and_disturbs_nobody(kit: KitBroker, way: str) -> None:
    with kit.hearing(kit.by_login(ADMIN), "infoscreen/#") as ear:
        findings = list(probe.examine(settings_of(kit, way)))
        assert ear.heard() == []
    assert [finding.verdict for finding in findings] == [Verdict.OK] * 10, findings


def test_the_doctor_names_what_another_clients_login_may_not(kit: KitBroker) -> None:
    settings = settings_of(kit, "login")
    wrong = replace(settings, broker=replace(settings.broker, username=OTHER))
    *_, last = probe.examine(wrong)
    assert (last.verdict, last.text) == (Verdict.PROBLEM, f"{Topics(CLIENT).commands_ack}: not authorised")


def test_a_revoked_certificate_and_a_login_that_was_taken_away_do_not_get_in(own: KitBroker) -> None:
    own.start()
    topic = Topics(CLIENT).health
    assert [own.says(own.by(way, CLIENT), topic, "word") for way in WAYS] == ["", ""]
    own.certificates("revoke", CLIENT)
    subprocess.run(["mosquitto_passwd", "-D", own.folder / "infoscreen.passwd", CLIENT], check=True)
    own.restart()
    assert all(own.says(own.by(way, CLIENT), topic, "word") for way in WAYS)
    assert [own.says(own.by(way, OTHER), Topics(OTHER).health, "word") for way in WAYS] == ["", ""]


def test_a_login_that_takes_over_a_clients_id_hears_nothing_and_the_client_comes_back(
    kit: KitBroker, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mosquitto has no rule that binds a client id to a user: it costs a connection, and what was queued."""
    topics = Topics(CLIENT)
    thief = [*kit.by_login(OTHER), "-i", f"infoscreen-{CLIENT}"]
    watchers: list[Callable[[], None]] = []

    @contextlib.contextmanager
    def surroundings(on_news: Callable[[], None]) -> Iterator[None]:
        watchers.append(on_news)
        yield

    async def reboots(inbox: asyncio.Queue[Delivery]) -> None:
        assert await asyncio.to_thread(kit.says, kit.by_login(CONTROLLER), topics.commands, "reboot") == ""
        assert await received(inbox, b"reboot") == topics.commands

    async def story() -> None:
        inbox: asyncio.Queue[Delivery] = asyncio.Queue()
        session = session_of(kit, "login", inbox, surroundings=surroundings)
        async with running(session):
            await reboots(inbox)
            # A pause may be as good as none. Then the client would throw the other out before that has spoken.
            with monkeypatch.context() as held:
                held.setattr(sessions, "back_off_s", lambda *_: 3600.0)
                assert await asyncio.to_thread(kit.says, thief, Topics(OTHER).health, "thrown out") == ""
                while not session.statistics.is_lost:
                    await asyncio.sleep(0.01)
            watchers[-1]()
            while session.statistics.reconnect_count == 0:
                await asyncio.sleep(0.01)
            await reboots(inbox)
        # Now while the client is away, and the broker keeps a command for it.
        assert await asyncio.to_thread(kit.says, kit.by_login(CONTROLLER), topics.commands, "queued") == ""
        with kit.hearing([*thief, "-c"], posts={Topics(OTHER).commands: CONTROLLER}) as ear:
            assert await asyncio.to_thread(ear.heard) == []
        # The first is lost, as the README says; one that is sent again comes.
        async with running(session_of(kit, "login", inbox)):
            await reboots(inbox)

    run(story())


def test_who_joins_the_controllers_shared_subscription_reads_nothing_and_takes_acks_away(
    kit: KitBroker,
) -> None:
    """Why the README says that a controller must not use one: mosquitto shares first, and looks at the rights then."""
    shared, acks = "$share/controller/infoscreen/+/commands/ack", [str(number) for number in range(10)]
    topic = Topics(CLIENT).commands_ack
    with (
        kit.hearing(kit.by_login(CONTROLLER), shared) as controller,
        kit.hearing(kit.by_login(CLIENT), shared) as thief,
    ):
        for ack in acks:
            assert kit.says(kit.by_login(CLIENT), topic, ack) == ""
        assert thief.heard() == []
        assert 0 < len(controller.heard()) < len(acks)


def test_a_user_whose_name_is_a_wildcard_may_nothing(own: KitBroker) -> None:
    for user in ("+", "#"):
        passwords = own.folder / "infoscreen.passwd"
        subprocess.run(["mosquitto_passwd", "-b", passwords, user, PASSWORD], check=True, capture_output=True)
    own.start()
    for user in ("+", "#"):
        for topic in EVERY:
            assert "Not authorized" in own.says(own.by_login(user), topic, "word")


def test_a_burst_waits_whole_for_a_client_that_is_away(kit: KitBroker) -> None:
    """With mosquitto's defaults it would be cut at 1,000 messages."""
    topic, count = Topics(OTHER).transitional_command, 1500
    session = [*kit.by_login(OTHER), "-i", "away", "-c", "-q", "1", "-t", topic]
    subprocess.run(["mosquitto_sub", *session, "-E"], check=True)
    burst = ["mosquitto_pub", *kit.by_login(CONTROLLER), "-q", "1", "-t", topic, "-l"]
    subprocess.run(burst, input="".join(f"{number}\n" for number in range(count)), text=True, check=True)
    heard = subprocess.check_output(["mosquitto_sub", *session, "-C", str(count), "-W", f"{PATIENCE_S:.0f}"], text=True)
    assert heard.split() == [str(number) for number in range(count)]


def test_a_packet_that_is_too_long_is_not_read(kit: KitBroker) -> None:
    # In MQTT 3.1.1, for in 5 the broker tells its limit, and mosquitto_pub keeps to it.
    argv = ["mosquitto_pub", *kit.by_login(CLIENT), "-q", "1", "-t", Topics(CLIENT).health, "-s"]
    with kit.hearing(kit.by_login(CONTROLLER), "infoscreen/#") as ear:
        done = subprocess.run(argv, input=b"x" * 131072, capture_output=True, timeout=PATIENCE_S, check=False)
        assert done.returncode
        assert ear.heard() == []


def test_mosquitto_has_nothing_to_say_against_the_files_and_listens_nowhere_else(kit: KitBroker) -> None:
    log = kit.log()
    assert not re.search("Warning: (?!Mosquitto should not be run as root)|Note|Error: Unknown", log), log
    ports = set(re.findall(r"listen socket on port ([0-9]+)", log))
    assert ports == {str(kit.port), str(kit.tls_port)}


def test_the_script_makes_no_certificate_for_a_name_that_is_nobodys(own: KitBroker) -> None:
    for name in ("infoscreen", "+", CLIENT.upper(), f"{CLIENT}x", f"x\n{CLIENT}", "../ca"):
        done = subprocess.run([KIT / "certificates", "user", name], cwd=own.certs, capture_output=True, check=False)
        assert done.returncode == 1 and b"is neither a UUID" in done.stderr, name
    assert {path.stem for path in own.certs.glob("*.key")} == {"ca", "broker", CLIENT, OTHER, CONTROLLER, ADMIN}
    assert {path.stat().st_mode & 0o77 for path in own.certs.glob("*.key")} == {0}
