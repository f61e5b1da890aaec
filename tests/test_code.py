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


@pytest.mark.parametrize(
    "command", [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]], ids=" ".join
)
def test_the_linters_are_content(command: list[str]) -> None:
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
