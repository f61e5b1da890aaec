"""The walls of the house, and the checks that need no running code."""

import ast
import functools
import itertools
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
PACKAGE = TOP / "infoscreen_reboot"
STDLIB = set(sys.stdlib_module_names)
# A room, and the rooms of which it may know besides itself. What is not named here may import nothing of ours.
SHARED = "contract", "mqtt", "signing"
CLIENT = tuple(f"client.{name}" for name in ("config", "kernel", "lasting", "disk", "alerts", "log", "greeting"))
ROOMS: dict[str, tuple[str, ...]] = {
    "contract": (),
    "mqtt": (),
    "signing": ("contract",),
    **dict.fromkeys(CLIENT, (*SHARED, *CLIENT)),
    "client.agent": (*SHARED, *CLIENT),
    "client.doctor": (*SHARED, *CLIENT),
    "client.notifier": (*SHARED, *CLIENT),
    "client.cli": (*SHARED, "client"),
    # The command line speaks with the controller over HTTP only.
    "controller.ctl": (),
    "controller": SHARED,
}
# What decides: it imports the standard library, the contract and each other.
PURE = (
    *("mqtt.packets", "mqtt.reasons", "mqtt.terms", "mqtt.manner", "mqtt.obstacles"),
    *("client.agent.lifecycle", "client.agent.policy", "client.agent.boot_report", "client.agent.health"),
    "client.agent.netlink",
    *("client.doctor.judgement", "client.doctor.finding", "client.doctor.tuning", "client.doctor.firmware"),
    *("controller.lifecycle", "controller.safety", "controller.windows", "controller.selection"),
    *("controller.presence", "controller.dispatch", "controller.text", "controller.inventory"),
    *("controller.recurrence", "controller.calendar", "controller.report"),
    "controller.recovery",
    "controller.condition",
    "controller.web.attempts",
    *("controller.power.port", "controller.power.cycle"),
    *("controller.notifying", "controller.targets", "controller.freezing"),
    *("controller.brake", "controller.stages", "controller.rollout"),
)
# What puts things together, and is imported by nobody.
ASSEMBLY = "client.agent.app", "client.cli"
# One door per foreign thing; what pages are made of has two, and so has HTTP: the command line, and OpenID providers.
DOORS: dict[str, tuple[str, ...]] = {
    "paho": ("mqtt.paho_client",),
    "dbus_next": ("client.agent.bus",),
    "cryptography": ("signing",),
    "jsonschema": ("contract.wire",),
    "sqlite3": ("client.agent.store",),
    "fastjsonschema": ("controller.ingest",),
    "sqlalchemy": ("controller.store",),
    "fastapi": ("controller.api", "controller.web"),
    "starlette": ("controller.api", "controller.web"),
    "pydantic": ("controller.api",),
    "jinja2": ("controller.web.shell",),
    "argon2": ("controller.passwords",),
    "prometheus_client": ("controller.api.metrics",),
    "dateutil": ("controller.recurrence",),
    "apprise": ("controller.apprised",),
    "icalendar": ("controller.ics",),
    "recurring_ical_events": ("controller.ics",),
    "segno": ("controller.web.codes",),
    "authlib": ("controller.oidc",),
    "httpx": ("controller.ctl.connection", "controller.oidc"),
    "rich": ("controller.ctl",),
}


def modules(package: Path) -> Iterator[tuple[str, Path]]:
    """Each with its name as seen from the package: `client.agent.app`."""
    for path in sorted(package.rglob("*.py")):
        yield ".".join(path.relative_to(package).with_suffix("").parts).removesuffix("__init__").rstrip("."), path


@functools.cache
def import_statements(source: str) -> list[ast.Import | ast.ImportFrom]:
    """Each package with a planted import is the same but for one file, and to parse them all takes a second."""
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)]


def imports(path: Path, package: Path) -> set[str]:
    """Every module that `path` imports, at any depth of the file, as full names."""
    found: set[str] = set()
    for node in import_statements(path.read_text("utf-8")):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        else:
            assert node.level == 0, f"{path}: imports are absolute"
            base = node.module or ""
            found |= {f"{base}.{a.name}" if _is_ours(f"{base}.{a.name}", package) else base for a in node.names}
    return found


def _is_ours(name: str, package: Path) -> bool:
    path = package.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or path.joinpath("__init__.py").exists()


def is_in(name: str, room: str) -> bool:
    return name == room or name.startswith(f"{room}.")


def broken_walls(package: Path) -> list[str]:
    """One sentence for each import that goes through a wall."""
    found = []
    for name, path in modules(package):
        known = imports(path, package)
        ours = {other.removeprefix("infoscreen_reboot.") for other in known if other.startswith("infoscreen_reboot.")}
        foreign = {other.split(".")[0] for other in known} - {"infoscreen_reboot"}
        room = next((room for room in ROOMS if is_in(name, room)), "")
        rooms = room, *ROOMS.get(room, ())
        found += [f"{name} imports {other}" for other in ours if not any(is_in(other, one) for one in rooms)]
        found += [f"{name} imports {other}, which puts things together" for other in ours & set(ASSEMBLY) - {name}]
        found += [
            f"{name} imports {other}, a thing of {' and '.join(DOORS[other])}"
            for other in foreign & DOORS.keys()
            if not any(is_in(name, door) for door in DOORS[other])
        ]
        if name in PURE or room == "contract":
            found += [f"{name} imports {other}" for other in foreign - STDLIB - DOORS.keys()]
        if name in PURE:
            found += [f"{name} imports {other}" for other in ours if not is_in(other, "contract") and other not in PURE]
    return found


def test_no_import_goes_through_a_wall() -> None:
    assert not broken_walls(PACKAGE)
    assert {name for name, _ in modules(PACKAGE)} >= {*PURE, *ASSEMBLY, *itertools.chain(*DOORS.values())}


@pytest.mark.parametrize(
    ("where", "line"),
    [
        ("contract/command.py", "from infoscreen_reboot.mqtt.messages import Message"),
        ("contract/command.py", "import infoscreen_reboot.signing"),
        ("contract/command.py", "import systemd"),
        ("mqtt/session.py", "from infoscreen_reboot.contract import ack"),
        ("mqtt/session.py", "from infoscreen_reboot.client import config"),
        ("mqtt/session.py", "import paho.mqtt.client"),
        ("signing.py", "from infoscreen_reboot.mqtt.messages import Delivery"),
        ("signing.py", "from infoscreen_reboot.client import kernel"),
        ("client/config.py", "from infoscreen_reboot.client.agent import host"),
        ("client/kernel.py", "from infoscreen_reboot.client.cli import main"),
        ("client/agent/monitor.py", "from infoscreen_reboot.client.doctor import finding"),
        ("client/agent/monitor.py", "from infoscreen_reboot.client.notifier import notify_failure"),
        ("client/agent/monitor.py", "from infoscreen_reboot.client.agent.app import main"),
        ("client/agent/monitor.py", "import infoscreen_reboot.controller.store"),
        ("client/agent/monitor.py", "import sqlite3"),
        ("client/agent/policy.py", "from infoscreen_reboot.client.agent import host"),
        ("client/agent/policy.py", "import systemd"),
        ("client/doctor/survey.py", "import dbus_next"),
        ("client/doctor/survey.py", "from infoscreen_reboot.client.agent.bus import Bus"),
        ("client/notifier/notify_failure.py", "from infoscreen_reboot.client.agent.store import Store"),
        ("controller/__init__.py", "from infoscreen_reboot.client import config"),
        ("controller/__init__.py", "import cryptography"),
        ("controller/orders.py", "from sqlalchemy import select"),
        ("controller/engine.py", "import fastapi"),
        ("controller/store/commands.py", "import pydantic"),
        ("controller/lifecycle.py", "from infoscreen_reboot.controller.store import commands"),
        ("controller/ctl/act.py", "from infoscreen_reboot.controller.safety import Standing"),
        ("controller/ctl/act.py", "from infoscreen_reboot.contract import command"),
        ("controller/ctl/act.py", "import httpx"),
        ("controller/engine.py", "import rich"),
        ("controller/auth.py", "import argon2"),
        ("controller/web/provided.py", "import authlib"),
        ("controller/calendar.py", "from dateutil import rrule"),
        ("another.py", "from infoscreen_reboot.contract import ack"),
    ],
)
def test_a_planted_import_is_found(where: str, line: str, tmp_path: Path) -> None:
    package = tmp_path / "infoscreen_reboot"
    shutil.copytree(PACKAGE, package)
    planted = package / where
    planted.parent.mkdir(exist_ok=True)
    with planted.open("a") as file:
        file.write(f"\n\ndef later():\n    {line}\n")
    name = ".".join(Path(where).with_suffix("").parts).removesuffix(".__init__")
    assert [sentence for sentence in broken_walls(package) if sentence.startswith(f"{name} imports ")]


def test_one_module_reads_and_writes_the_packets_of_mqtt() -> None:
    """A packet's length is written in groups of seven bits: whoever does that writes packets by hand."""
    seven_bits = re.compile(r"& (0x7f|127)\b|(%|//) 128\b|>>=? 7\b|<<=? 7\b", re.IGNORECASE)
    folders = (TOP / folder for folder in ("infoscreen_reboot", "tools", "tests", "helper"))
    sources = [path for folder in folders for path in folder.rglob("*.py")]
    found = [path for path in sources if seven_bits.search(path.read_text("utf-8"))]
    assert found == [PACKAGE / "mqtt/packets.py"]


# Part of an expression. An expression that stands in anything else is a whole one.
PARTS = ast.expr | ast.comprehension | ast.keyword
COMPREHENSIONS = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


def dense_places(source: str) -> list[str]:
    """Where `source` does several things at once, as "line: what"."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assign) and any(_width(target) > 2 for target in node.targets):
            found.append((node.lineno, "an assignment to more than two"))
        if isinstance(node, ast.Lambda):
            found.append((node.lineno, "a lambda"))
        if isinstance(node, COMPREHENSIONS) and _walruses(node):
            found.append((node.lineno, "a walrus in a comprehension"))
        wholes = [] if isinstance(node, PARTS) else [x for x in ast.iter_child_nodes(node) if isinstance(x, ast.expr)]
        found += [(whole.lineno, "a walrus beside another") for whole in wholes if _walruses(whole) > 1]
    return [f"{line}: {what}" for line, what in sorted(found)]


def _width(target: ast.expr) -> int:
    return sum(map(_width, target.elts)) if isinstance(target, ast.Tuple | ast.List) else 1


def _walruses(node: ast.expr) -> int:
    return sum(isinstance(part, ast.NamedExpr) for part in ast.walk(node))


def test_the_helper_is_one_file_that_shares_nothing_with_the_agent() -> None:
    (helper,) = TOP.joinpath("helper").glob("*.py")
    assert {name.split(".")[0] for name in imports(helper, PACKAGE)} - STDLIB <= {"dbus_next", "systemd"}
    nodes = list(ast.walk(ast.parse(helper.read_text("utf-8"))))
    # What an auditor has to follow. Not lines: a bound on them made the file denser instead of smaller.
    assert sum(isinstance(node, ast.stmt) for node in nodes) <= 375
    branches = ast.If | ast.IfExp | ast.For | ast.While | ast.ExceptHandler | ast.BoolOp | ast.comprehension
    assert sum(isinstance(node, branches) for node in nodes) <= 93
    # These would be a way round the first bound.
    assert dense_places(helper.read_text("utf-8")) == []


PLANTED = {
    "an assignment to more than two": [
        "a, b, c = 1, 2, 3",
        "self.a, self.b, c[0] = values",
        "[a, b, c] = values",
        "a, *b, c = values",
        "(a, b), c = values",
        "a = b, c, d = values",
        "def f():\n    if True:\n        a, b, c = values",
    ],
    "a walrus beside another": [
        "if (a := f()) and (b := g()): pass",
        "print(f(a := 1), g(b := 2))",
        "f(x, key=(a := (b := 1)))",
        "with f(a := 1, b := 2): pass",
        "def f(x=g(a := 1, b := 2)): pass",
        "try: pass\nexcept f(a := 1, b := 2): pass",
    ],
    "a walrus in a comprehension": [
        "[a for x in y if (a := f(x))]",
        "{a: 1 for x in y if (a := f(x))}",
        "any((a := x) for x in y)",
        "print({f(a := x) for x in y})",
    ],
    "a lambda": [
        "f = lambda: 1",
        "sorted(x, key=lambda y: -y)",
        "class A:\n    b = {1: lambda: 2}",
    ],
}


@pytest.mark.parametrize(("what", "source"), [(what, source) for what in PLANTED for source in PLANTED[what]])
def test_a_dense_place_is_found_and_told_by_its_line(what: str, source: str) -> None:
    line = 2 + source.count("\n")
    assert dense_places(f"import os\n{source}\nprint(os)\n") == [f"{line}: {what}"]


@pytest.mark.parametrize(
    "source",
    [
        "a, b = values",
        "[a] = values",
        "header, *lines = values",
        "a = b = c = 1",
        "a = 1, 2, 3",
        "for a, b, c in values: pass",
        "print(a for a, b, c in values)",
        "if (a := f()) and b: pass",
        "if (a := f()): b = (c := g())",
        "while (a := f()):\n    while (b := g()): pass",
        "def f(x): return x",
    ],
)
def test_a_plain_place_is_left_alone(source: str) -> None:
    assert dense_places(source) == []


@pytest.mark.parametrize(
    "command", [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]], ids=" ".join
)
def test_the_linters_are_content(command: list[str]) -> None:
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
