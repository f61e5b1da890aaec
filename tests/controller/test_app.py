"""The program as its unit starts it: at a real mosquitto, over HTTP, until a signal to stop."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import httpx
import pytest

from infoscreen_reboot.contract.ack import AckStatus
from infoscreen_reboot.controller import doctor
from infoscreen_reboot.controller.store import lease, views
from infoscreen_reboot.controller.store.database import Database
from infoscreen_reboot.controller.web.session import COOKIE
from infoscreen_reboot.mqtt.consumer import Terms
from tests.broker.conftest import Authority, Broker
from tests.controller.conftest import Server
from tests.controller.nginx import nginx
from tests.controller.played import PlayedClient
from tests.controller.receiver import is_signed, receiving
from tools.lab.patience import Patience

# How long an answer may take: a busy machine may leave the program alone for seconds.
ANSWERS_S = 60
TREE = Path(__file__).resolve().parents[2]
PROGRAM = "import os, sys; from infoscreen_reboot.controller.app import main; sys.exit(main(sys.argv[1:], os.environ))"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def answers(http: httpx.Client, path: str = "/whoami") -> bool:
    try:
        return http.get(path).status_code == 200
    except httpx.TransportError:
        return False


def eventually(is_so: Callable[[], bool], timeout_s: float) -> None:
    patience = Patience(timeout_s)
    while not is_so():
        assert not patience.is_over, "it never came true"
        time.sleep(0.05)


class Program:
    """One controller with a state directory of its own."""

    def __init__(self, folder: Path, broker: Broker, **settings: str) -> None:
        self.port = free_port()
        self.environment = {
            **{name: value for name, value in os.environ.items() if name not in ("NOTIFY_SOCKET", "JOURNAL_STREAM")},
            "MQTT_BROKER": broker.host,
            "MQTT_PORT": str(broker.port),
            "MQTT_TLS": "no",
            "STATE_DIRECTORY": str(folder),
            "LISTEN": f"127.0.0.1:{self.port}",
            "ACCEPT_CLIENTS": "auto",
            **settings,
        }
        self.log = folder / "log"
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self.trusted = ssl.create_default_context()

    def does(self, *words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-c", PROGRAM, *words]
        return subprocess.run(argv, env=self.environment, capture_output=True, text=True, check=False)

    def start(self) -> None:
        with self.log.open("ab") as log:
            argv = [sys.executable, "-c", PROGRAM, "serve"]
            self.process = subprocess.Popen(argv, env=self.environment, stdout=log, stderr=log)
        eventually(self.serves, 30)

    def serves(self) -> bool:
        assert self.process is not None and self.process.poll() is None, self.log.read_text()
        try:
            return httpx.get(f"{self.url}/readyz", verify=self.trusted).status_code == 200
        except httpx.TransportError:
            return False

    def connect(self) -> None:
        """Returns when it hears the broker: that may be after it serves."""
        eventually(lambda: "connected to" in self.log.read_text(), 30)

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        status = self.process.wait(60)
        self.process = None
        return status

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def program(tmp_path: Path, broker: Broker) -> Iterator[Program]:
    found = Program(tmp_path, broker)
    yield found
    found.kill()


def api(program: Program) -> httpx.Client:
    made = program.does("admin", "ann")
    assert made.returncode == 0, made.stderr
    headers = {"Authorization": f"Bearer {made.stdout.strip()}"}
    return httpx.Client(base_url=f"{program.url}/api/v1", headers=headers, timeout=ANSWERS_S)


def test_from_a_fresh_machine_to_a_reboot(program: Program, broker: Broker) -> None:
    program.start()
    client = PlayedClient(broker, str(UUID(int=1)))
    client.come()
    with api(program) as http:
        rights = {"role": "admin", "may_shut_down": True, "has_password": False, "by_provider": False}
        assert http.get("/whoami").json() == {"name": "ann", **rights}
        eventually(lambda: http.get("/clients").json() != [], 10)
        made = http.post("/commands", json={"action": "reboot_host", "client_uuid": client.uuid})
        assert made.status_code == 201, made.text
        command_id = made.json()["id"]

        def state() -> str:
            return str(http.get(f"/commands/{command_id}").json()["state"])

        assert client.wait() == [command_id]
        client.execute(command_id)
        client.go_down()
        eventually(lambda: state() == "awaiting_reconnect", 10)
        client.come()
        client.answer(command_id, AckStatus.COMPLETED)
        eventually(lambda: state() == "completed", 10)
    client.link.end()
    soon = Patience(5)
    assert program.stop() == 0
    assert not soon.is_over
    database = Database(f"sqlite:///{program.environment['STATE_DIRECTORY']}/controller.sqlite3")
    with database.read() as tx:
        held = lease.standing(tx)
    assert held is not None and held["holder"] is None, "the next one need not wait"


def test_systemd_hears_when_it_is_ready_and_that_it_lives(program: Program, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(30)
        program.environment |= {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "3000000"}
        program.start()
        said = ""
        patience = Patience(30)
        for words in ("READY=1", "WATCHDOG=1", "STATUS=connected to 127.0.0.1"):
            while words not in said:
                assert not patience.is_over, said
                said += systemd.recv(4096).decode()
        assert program.stop() == 0


def test_a_unix_socket_and_a_provider_of_sign_ins(program: Program, tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    program.environment |= {
        "LISTEN": f"unix:{path}",
        "CONSOLE_URL": "https://screens.example",
        "OIDC_ISSUER": "https://login.example/realms/site",
        "OIDC_CLIENT_ID": "signage",
        "OIDC_CLIENT_SECRET": "a secret",
        "OIDC_ROLES": "groups: signage=operator",
    }
    program.serves = lambda: path.exists()  # type: ignore[method-assign]
    program.start()
    transport = httpx.HTTPTransport(uds=str(path))
    with httpx.Client(transport=transport, base_url="http://controller", timeout=ANSWERS_S) as http:
        eventually(lambda: answers(http, "/readyz"), 10)
        assert "Sign in with login.example" in http.get("/sign-in").text
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert program.stop() == 0


def test_what_it_does_not_start_with(program: Program, tmp_path: Path) -> None:
    assert program.does("check-config").stdout.startswith("ok: ")
    program.environment["FLEET_CAP"] = "x"
    for words in ("serve", "check-config", "doctor"):
        done = program.does(words)
        assert done.returncode in (1, 78) and "FLEET_CAP is 'x'" in done.stdout + done.stderr
    program.environment |= {"FLEET_CAP": "", "DATABASE_URL": "sqlite:////nowhere/x.sqlite3"}
    done = program.does("serve")
    assert done.returncode == 1 and "cannot lock /nowhere/x.sqlite3" in done.stderr
    program.environment |= {"DATABASE_URL": "", "MQTT_BROKER": ""}
    assert program.does("serve").returncode == 6
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", program.port))
        taken.listen()
        program.environment["MQTT_BROKER"] = "127.0.0.1"
        done = program.does("serve")
        assert done.returncode == 1 and f"cannot listen at {program.url}: Address already in use" in done.stderr


def test_without_a_broker_the_api_serves_and_says_what_is_wrong(program: Program, broker: Broker) -> None:
    broker.kill()
    program.start()
    eventually(lambda: "cannot hear the broker" in program.log.read_text(), 30)
    done = program.does("doctor")
    assert done.returncode == 1
    assert "problem  broker: 127.0.0.1:" in done.stdout
    assert "holds it, and does not hear the broker" in done.stdout
    broker.start()
    eventually(lambda: "hears the broker since" in program.does("doctor").stdout, 60)
    assert program.stop() == 0


def test_the_doctor_knows_each_right_at_the_broker(program: Program, broker: Broker) -> None:
    done = program.does("doctor")
    assert "problem  database: there is no " in done.stdout
    program.start()
    program.connect()
    done = program.does("doctor", "--json")
    findings = json.loads(done.stdout)["findings"]
    found = {line["check"]: line["verdict"] for line in findings}
    found.pop("clock")  # nobody keeps the clock in a workshop
    if any("can be written, after " in line["text"] for line in findings):
        found["database"] = "ok"  # if it took long, the machine is busy
    assert found.keys() == {
        *("configuration", "database", "migrations", "lease", "broker", "subscribe", "publish", "notify", "disk"),
        "api",
    }
    assert set(found.values()) == {"ok"}, done.stdout


def test_what_happens_is_told_and_the_doctor_says_what_has_not_arrived(
    program: Program, broker: Broker, tmp_path: Path
) -> None:
    """One target takes it, one is down; and a calendar freezes the fleet."""
    file, calendar = tmp_path / "notify.conf", tmp_path / "x.ics"
    calendar.write_text(
        "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:x\r\nBEGIN:VEVENT\r\nUID:1\r\nSUMMARY:fair\r\n"
        "DTSTART:20260101T000000Z\r\nRRULE:FREQ=DAILY\r\nDURATION:P1D\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n"
    )
    program.environment |= {"NOTIFY_FILE": str(file), "NOTIFY_GRACE_S": "5", "ACCEPT_CLIENTS": "ask"}
    program.environment |= {"FREEZE_CALENDAR": str(calendar)}
    with receiving() as receiver, receiving(500) as down:
        file.write_text(f"no target\n{receiver.line()}\n{down.line('down')}\n")
        file.chmod(0o640)
        done = program.does("check-config")
        assert done.returncode == os.EX_CONFIG and "line 1" in done.stdout
        file.write_text(f"{receiver.line()}\n{down.line('down')}\n")
        assert program.does("check-config").returncode == 0
        program.start()
        client = PlayedClient(broker, str(UUID(int=1)))
        client.come()
        eventually(lambda: bool(receiver.got and down.got), 60)
        assert is_signed(*receiver.got[0][1:]) and json.loads(receiver.got[0][2])["kind"] == "unknown_client"
        with api(program) as http:
            eventually(lambda: [each["why"] for each in http.get("/freezes").json()] == ["fair"], 60)

            def came_of_it() -> list[tuple[int, str | None]]:
                return [(each["waiting"], each["words"]) for each in http.get("/notify/targets").json()["targets"]]

            eventually(lambda: came_of_it() == [(0, None), (1, "it answers 500")], 60)
        client.link.end()
        program.kill()  # else the next attempt may be on its way when the doctor looks
    told = json.loads(program.does("doctor", "--json").stdout)["findings"]
    found = {line["check"]: (line["verdict"], line["text"]) for line in told}
    assert found["notify"] == ("problem", "down has not taken 1 message of the last day: it answers 500")
    assert found["calendar"][0] == "ok"


@pytest.mark.parametrize(
    ("terms", "told"),
    [
        (Terms(), []),
        (Terms(maximum_qos=0), ["problem it knows QoS 0 only"]),
        (Terms(has_wildcards=False), ["problem it allows no wildcards in subscriptions"]),
        (Terms(has_retained=False), ["warning it keeps no retained messages"]),
    ],
)
def test_the_doctor_says_what_the_broker_cannot(terms: Terms, told: list[str]) -> None:
    """Pitfall 28: what its CONNACK takes away from us."""
    found = doctor._judge_terms(terms)
    assert [f"{each.verdict} {each.text.partition(':')[0]}" for each in found] == told


def test_a_backup_while_it_runs(program: Program, tmp_path: Path) -> None:
    program.start()
    program.connect()
    done = program.does("backup", str(tmp_path / "copies" / "today.sqlite3"))
    assert done.returncode == 0, done.stderr
    copy = Database(f"sqlite:///{tmp_path}/copies/today.sqlite3")
    with copy.read() as tx:
        assert lease.standing(tx) is not None
    assert program.stop() == 0


def test_a_backup_is_restored_elsewhere_while_clients_go_on(program: Program, broker: Broker, tmp_path: Path) -> None:
    """Pitfall 17: of a command that was made after the backup the restored controller knows nothing."""
    program.start()
    client = PlayedClient(broker, str(UUID(int=1)))
    client.come()
    with api(program) as http:
        eventually(lambda: http.get("/clients").json() != [], 10)
        assert program.does("backup", str(tmp_path / "copies" / "today.sqlite3")).returncode == 0
        forgotten = http.post("/commands", json={"action": "reboot_host", "client_uuid": client.uuid}).json()["id"]
        assert client.wait() == [forgotten]
    program.kill()
    client.execute(forgotten)
    restored = tmp_path / "elsewhere"
    restored.mkdir()
    (tmp_path / "copies" / "today.sqlite3").rename(restored / "controller.sqlite3")
    program.environment["STATE_DIRECTORY"] = str(restored)
    program.start()
    client.go_down()
    client.come()
    client.answer(forgotten, AckStatus.COMPLETED)
    with api(program) as http:
        assert http.get(f"/commands/{forgotten}").status_code == 404
        eventually(lambda: bool(http.get(f"/clients/{client.uuid}").json()["boot_id"] == client.boot_id), 10)
        made = http.post("/commands", json={"action": "reboot_host", "client_uuid": client.uuid}).json()["id"]
        assert client.wait() == [made]
    client.link.end()
    assert program.stop() == 0


def lines_for_nginx(number: int, *told: str) -> str:
    """The first or second ones of docs/controller.md, with what has to be `told` otherwise here, as in `old=new`."""
    location = (TREE / "docs/controller.md").read_text("utf-8").split("```nginx\n")[number].partition("```")[0]
    for old, _, new in (each.partition("=") for each in told):
        assert old in location
        location = location.replace(old, new)
    return location


def test_an_event_comes_through_nginx_at_once(program: Program, broker: Broker, tmp_path: Path) -> None:
    """Pitfall 11, with the lines that we tell people to write. nginx 1.26 does so without X-Accel-Buffering, too."""
    program.start()
    client = PlayedClient(broker, str(UUID(int=1)))
    with (
        api(program) as http,
        nginx(tmp_path, lines_for_nginx(1, f"127.0.0.1:8480=127.0.0.1:{program.port}")) as address,
        httpx.Client(base_url=f"{address}/api/v1", headers=http.headers, timeout=ANSWERS_S) as behind,
    ):
        eventually(lambda: answers(behind), 10)
        with behind.stream("GET", "/events") as stream:
            lines = stream.iter_lines()
            assert next(lines)  # the stream has begun
            client.come()
            soon = Patience(2)
            assert "event: client_online" in lines
            assert not soon.is_over
        cookie = {"Cookie": f"{COOKIE}={http.headers['Authorization'].removeprefix('Bearer ')}"}
        assert "Sign out" in behind.get(f"{address}/", headers=cookie).text
        with behind.stream("GET", f"{address}/live", headers=cookie) as stream:
            soon = Patience(2)
            assert "event: beat" in stream.iter_lines()
            assert not soon.is_over
    client.link.end()
    assert program.stop() == 0


def test_nginx_says_who_somebody_is_and_nobody_else_can(program: Program, tmp_path: Path) -> None:
    """With the lines that we tell people to write."""
    path, passwords = tmp_path / "api.sock", tmp_path / "htpasswd"
    passwords.write_text("ann:{PLAIN}hers\nnobody:{PLAIN}his\n")
    program.environment |= {"LISTEN": f"unix:{path}", "TRUSTED_USER_HEADER": "X-Forwarded-User"}
    program.serves = lambda: path.exists()  # type: ignore[method-assign]
    program.start()
    secret = program.does("admin", "ann").stdout.strip()
    told = f"/run/infoscreen-reboot-controller/api.sock={path}", f"/etc/nginx/screens.htpasswd={passwords}"
    forged = {"X-Forwarded-User": "root", "Sec-Fetch-Site": "same-origin"}
    ann = httpx.BasicAuth("ann", "hers")
    location = lines_for_nginx(2, *told)
    with (
        nginx(tmp_path, location) as address,
        httpx.Client(base_url=address, headers=forged, timeout=ANSWERS_S) as http,
    ):
        eventually(lambda: answers(http, "/healthz"), 10)
        assert http.get("/sign-in").status_code == 401, "nginx's own"
        assert "Continue as nobody" in http.get("/sign-in", auth=("nobody", "his")).text
        assert "Continue as ann" in http.get("/sign-in", auth=ann).text
        answer = http.post("/sign-in", data={"named": "ann"}, auth=ann)
        assert answer.status_code == 303, answer.text
        cookie = {"Cookie": f"{COOKIE}={answer.cookies[COOKIE]}"}
        assert "ann" in http.get("/me", headers=cookie, auth=ann).text
        assert http.get("/me", headers=cookie, auth=("nobody", "his")).status_code == 303, "the session is not his"
        token = {"Authorization": f"Bearer {secret}"}
        assert http.get("/api/v1/whoami", headers=token).json()["name"] == "ann"
    assert program.stop() == 0


class Follower:
    """Whoever hears all events from the first one on, and connects again where the stream ends."""

    def __init__(self, http: httpx.Client) -> None:
        self.heard: list[int] = []
        self._http = http
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._follow)

    def __enter__(self) -> Follower:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._is_over.wait(0.1):
            last = {"Last-Event-ID": str(self.heard[-1] if self.heard else 0)}
            with contextlib.suppress(httpx.TransportError), self._http.stream("GET", "/events", headers=last) as answer:
                for line in answer.iter_lines():
                    if line.startswith("id: "):
                        self.heard.append(int(line.removeprefix("id: ")))
                    if self._is_over.is_set():
                        return


def test_a_restart_under_fifty_streams_loses_no_event_and_doubles_none(program: Program, broker: Broker) -> None:
    """Pitfall 13: half of them are of pages, which are told that it stops, and read all again."""
    program.start()
    client = PlayedClient(broker, str(UUID(int=1)))
    client.come()
    client.link.end()
    database = Database(f"sqlite:///{program.environment['STATE_DIRECTORY']}/controller.sqlite3")
    with api(program) as http, contextlib.ExitStack() as stack:
        eventually(lambda: http.get("/clients").json() != [], 10)
        http.post("/freezes", json={"why": "so each order is two events: queued, and blocked"})
        followers = [stack.enter_context(Follower(http)) for _ in range(25)]
        cookie = {"Cookie": f"{COOKIE}={http.headers['Authorization'].removeprefix('Bearer ')}"}
        address = f"{program.url}/live"
        streams = [httpx.stream("GET", address, headers=cookie, timeout=ANSWERS_S) for _ in range(25)]
        pages = [stack.enter_context(stream).iter_lines() for stream in streams]
        for page in pages:
            assert "event: beat" in page

        def order_and_hear() -> None:
            assert http.post("/commands", json={"action": "reboot_host", "client_uuid": client.uuid}).status_code == 409
            with database.read() as tx:
                all_of_them = list(range(1, views.revision(tx) + 1))
            eventually(lambda: all(follower.heard == all_of_them for follower in followers), 20)

        order_and_hear()
        soon = Patience(5)
        assert program.stop() == 0
        assert not soon.is_over
        for page in pages:
            assert "event: bye" in page
        program.start()
        order_and_hear()
        assert program.stop() == 0


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_next_one_need_not_wait(program: Program, how: signal.Signals) -> None:
    """Whoever has locked an SQLite file knows that the last holder of the lease is dead."""
    program.start()
    program.connect()
    done = program.does("serve")
    assert done.returncode == 1 and "another controller uses" in done.stderr
    assert program.process is not None
    program.process.send_signal(how)
    program.process.wait()
    program.log.unlink()
    program.start()
    eventually(lambda: "connected to" in program.log.read_text(), 5)
    assert program.stop() == 0


def test_tls_of_its_own(program: Program, tmp_path: Path) -> None:
    (tmp_path / "authority").mkdir()
    authority = Authority(tmp_path / "authority")
    mine = authority.issue("controller")
    program.environment |= {"LISTEN_TLS_CERT": str(mine.certificate), "LISTEN_TLS_KEY": str(mine.key)}
    program.url = f"https://127.0.0.1:{program.port}"
    program.trusted = ssl.create_default_context(cafile=str(authority.certificate))
    program.trusted.verify_flags &= (
        ~ssl.VERIFY_X509_STRICT
    )  # Python 3.13 wants more of an authority than openssl's does
    program.start()
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{program.port}/readyz")
    assert program.stop() == 0
    program.environment["LISTEN_TLS_KEY"] = str(authority.issue("another").key)
    assert "LISTEN_TLS_CERT: cannot use" in program.does("check-config").stdout


def test_no_answer_waits_for_an_acknowledgement_of_tcp(program: Program) -> None:
    """An answer is two packets. Without TCP_NODELAY the second one waits 40 ms for the first, on each connection."""
    program.start()
    took_s = []
    with httpx.Client(base_url=program.url, timeout=ANSWERS_S) as web:
        for _ in range(30):
            began_s = time.perf_counter()
            assert web.get("/healthz").status_code == 200
            took_s.append(time.perf_counter() - began_s)
    assert min(took_s[10:]) < 0.03, "the first ones are acknowledged at once in any case"


def test_whom_it_believes_where_a_request_comes_from(program: Program) -> None:
    """Pitfall 47: only a listed proxy may say who stands behind it."""
    forwarded = {"X-Forwarded-For": "203.0.113.7"}
    for proxies, address in (("", "127.0.0.1"), ("127.0.0.1", "203.0.113.7"), ("10.0.0.0/8", "127.0.0.1")):
        program.environment["TRUSTED_PROXIES"] = proxies
        program.start()
        with api(program) as http:
            assert http.post("/freezes", json={"why": "x"}, headers=forwarded).status_code == 201
            assert http.get("/audit").json()["items"][0]["address"] == address
        assert program.stop() == 0


def test_a_second_instance_takes_over_from_one_that_hangs(tmp_path: Path, broker: Broker, server: Server) -> None:
    """Pitfall 19: stopped for longer than its lease, then continued: it finds another one at work, and waits."""
    database = server.bare()
    one, two = (
        Program(tmp_path / name, broker, DATABASE_URL=server.url, CREDENTIALS_DIRECTORY="") for name in ("one", "two")
    )
    for program in (one, two):
        Path(program.environment["STATE_DIRECTORY"]).mkdir()
        program.start()
    try:
        eventually(lambda: holder(database) is not None, 20)
        first = holder(database)
        hung, other = (one, two) if f"as {first}" in one.log.read_text() else (two, one)
        assert hung.process is not None
        hung.process.send_signal(signal.SIGSTOP)
        eventually(lambda: holder(database) not in (None, first), 30)
        second = holder(database)
        hung.process.send_signal(signal.SIGCONT)
        eventually(lambda: "another instance" in hung.log.read_text(), 20)
        assert holder(database) == second
        assert other.stop() == 0
        eventually(lambda: holder(database) not in (None, second), 20)
        assert hung.stop() == 0
    finally:
        one.kill()
        two.kill()
        database.close()


def holder(database: Database) -> str | None:
    """Who hears the broker."""
    with database.read() as tx:
        held = lease.standing(tx)
    return None if held is None or held["listening_since"] is None else str(held["holder"])
