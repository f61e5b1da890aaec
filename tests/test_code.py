"""The walls of the house, and the checks that need no running code."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TOP = Path(__file__).parents[1]
PACKAGE = TOP / "infoscreen_reboot"
STDLIB = set(sys.stdlib_module_names)
# What decides, and the doctor's judgement with it: `survey` and `probe` ask, these are told.
PURE = {
    f"infoscreen_reboot.client.{name}"
    for name in (
        *("agent.lifecycle", "agent.policy", "agent.boot_report", "agent.health"),
        *("doctor.judgement", "doctor.finding", "doctor.tuning", "doctor.firmware"),
    )
}
CONTRACT = "infoscreen_reboot.contract"


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield ".".join(path.relative_to(TOP).with_suffix("").parts).removesuffix(".__init__"), path


def imports(path: Path) -> set[str]:
    """Every module that `path` imports, at any depth of the file, as full names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            base = node.module or ""
            found |= {f"{base}.{a.name}" if _is_ours(f"{base}.{a.name}") else base for a in node.names}
    return found


def _is_ours(name: str) -> bool:
    path = TOP.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or path.joinpath("__init__.py").exists()


def foreign(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)} - STDLIB - {"infoscreen_reboot"}


def ours(path: Path) -> set[str]:
    return {name for name in imports(path) if name.startswith("infoscreen_reboot.")}


def importers(library: str) -> set[str]:
    return {name for name, path in modules() if library in foreign(path)}


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


def test_the_contract_imports_the_standard_library_and_jsonschema_only() -> None:
    for name, path in modules():
        if name.startswith(CONTRACT):
            assert foreign(path) <= {"jsonschema"}, name
            assert all(other.startswith(CONTRACT) for other in ours(path)), name


def test_pure_modules_import_the_contract_and_each_other_only() -> None:
    for name, path in modules():
        if name in PURE:
            assert not foreign(path), name
            assert all(other.startswith(CONTRACT) or other in PURE for other in ours(path)), name


def test_each_foreign_thing_has_one_door() -> None:
    assert importers("paho") == {"infoscreen_reboot.mqtt.paho_client"}
    assert importers("dbus_next") == {"infoscreen_reboot.client.agent.bus"}
    assert importers("cryptography") == {"infoscreen_reboot.signing"}
    assert importers("jsonschema") == {"infoscreen_reboot.contract.wire"}
    assert {name for name, path in modules() if "sqlite3" in imports(path)} == {"infoscreen_reboot.client.agent.store"}


def test_only_app_and_cli_put_things_together() -> None:
    for name, path in modules():
        if name not in ("infoscreen_reboot.client.agent.app", "infoscreen_reboot.client.cli"):
            assert not ours(path) & {"infoscreen_reboot.client.agent.app", "infoscreen_reboot.client.cli"}, name


def test_the_helper_is_one_file_that_shares_nothing_with_the_agent() -> None:
    (helper,) = TOP.joinpath("helper").glob("*.py")
    assert not ours(helper)
    assert foreign(helper) <= {"dbus_next", "systemd"}
    nodes = list(ast.walk(ast.parse(helper.read_text("utf-8"))))
    # What an auditor has to follow. Not lines: a bound on them made the file denser instead of smaller.
    assert sum(isinstance(node, ast.stmt) for node in nodes) <= 380
    branches = ast.If | ast.IfExp | ast.For | ast.While | ast.ExceptHandler | ast.BoolOp | ast.comprehension
    assert sum(isinstance(node, branches) for node in nodes) <= 95
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
