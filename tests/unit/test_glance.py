"""A glance says yes only where jsonschema does, and to all that keeps a schema plainly."""

from __future__ import annotations

import copy
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from infoscreen_reboot.contract import glance, wire

CONTRACT = Path(wire.__file__).parent
NAMES = sorted(path.name.removesuffix(".schema.json") for path in (CONTRACT / "schemas").glob("*.json"))
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 1.0, 1.5, 10**30, "", "x", "x" * 129, "x" * 501),
    *([], ["x"], ["x", "x"], [1, 1.0], {}),
    *("failed", "command", "reboot_host", "1.0", "2026-04-03T12:48:10Z\n", "٢٠٢٦-04-03T12:48:10Z", "\ud800"),
)


def plain(schema: dict[str, Any], root: dict[str, Any], chance: random.Random) -> Any:
    """Something that the schema is likely to allow."""
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        return plain(chance.choice(schema["anyOf"]), root, chance)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return chance.choice(schema["enum"])
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    match chance.choice(kinds):
        case "object":
            return {name: plain(part, root, chance) for name, part in schema["properties"].items()}
        case "array":
            return [plain(schema["items"], root, chance) for _ in range(chance.randrange(4))]
        case "string" if "UUID" in schema.get("description", ""):
            return "9b8d1856-ff34-4864-a726-12de072d0f77"
        case "string" if "time" in schema.get("description", ""):
            return "2026-04-03T12:48:10.123Z"
        case "string":
            return "some words"
        case "integer":
            return chance.randrange(1, 1000)
        case "boolean":
            return chance.random() < 0.5
    return None


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each container in it with each of its keys."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


def spoilt(content: Any, chance: random.Random) -> Any:
    """The same with something replaced, left out or added."""
    content = copy.deepcopy(content)
    container, key = chance.choice(list(places(content)))
    match chance.randrange(3):
        case 0 if isinstance(container, dict):
            del container[key]
        case 1 if isinstance(container, dict):
            container[chance.choice(("more", "reason", "status"))] = chance.choice(ODD)
        case _:
            container[key] = chance.choice(ODD)
    return content


@pytest.mark.parametrize("name", NAMES)
def test_what_passes_at_a_glance_is_what_jsonschema_lets_through(name: str) -> None:
    schema, chance = wire.schema(name), random.Random(name)
    at_a_glance, judge = glance.test_of(schema, schema), Draft202012Validator(schema)
    passed = spoiled = 0
    for _ in range(300):
        content = plain(schema, schema, chance)
        for _ in range(6):
            valid = judge.is_valid(content)
            if at_a_glance(content):
                assert valid, content
            else:
                # What a client sends is plain: only a number with a point, or doubles in a list, may need the judge.
                assert not valid or "1.0" in json.dumps(content) or "1, 1" in json.dumps(content), content
            passed, spoiled = passed + valid, spoiled + (not valid)
            content = spoilt(content, chance)
    assert passed > 30 and spoiled > 300, "neither may be rare"


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_what_is_no_object_passes_at_no_glance(odd: Any) -> None:
    for name in NAMES:
        assert glance.test_of(wire.schema(name), wire.schema(name))(odd) is False


@pytest.mark.parametrize(
    ("schema", "error"),
    [
        ({"format": "uuid"}, KeyError),
        ({"enum": ["a", 1.5]}, TypeError),
        ({"if": {"properties": {"a": {"const": 1}}}, "then": {}}, TypeError),
        ({"if": {"required": ["a"]}, "then": {}}, TypeError),
        ({"additionalProperties": {"type": "string"}, "properties": {}}, TypeError),
    ],
)
def test_a_keyword_that_is_not_known_is_no_reason_to_guess(schema: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        glance.test_of(schema, schema)


def test_an_agent_has_in_memory_from_its_start_on_what_a_refusal_needs() -> None:
    """In the middle of a dist-upgrade nothing more can be imported."""
    program = """
import sys
from infoscreen_reboot.client.agent import app
from infoscreen_reboot.contract import command, wire
loaded = set(sys.modules)
assert "jsonschema" in loaded
assert not sys.modules.get("gi")
content = {"schema_version": "1.0", "command_id": ID, "client_uuid": ID, "action": "reboot_host",
           "issued_at": "2026-04-03T12:48:10Z", "expires_at": "2026-04-03T12:52:10Z"}
command.parse(wire.encode(content))
try:
    command.parse(wire.encode(content | {"action": "dance"}))
except wire.ContractError as error:
    assert error.field == "action"
later = set(sys.modules) - loaded
assert not later, later
""".replace("ID", repr("9b8d1856-ff34-4864-a726-12de072d0f77"))
    subprocess.run([sys.executable, "-c", program], cwd=CONTRACT.parents[1], check=True)
