"""A payload is judged as jsonschema judges it by the shipped schema."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from infoscreen_reboot.contract import wire
from infoscreen_reboot.contract.wire import ContractError

SCHEMAS = Path(wire.__file__).with_name("schemas")
NAMES = sorted(path.name.removesuffix(".schema.json") for path in SCHEMAS.glob("*.json"))
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


def answer(name: str, content: Any) -> tuple[str, str] | None:
    """Field and rule of a refusal."""
    try:
        wire.check(name, content)
    except ContractError as refusal:
        return refusal.field, refusal.rule
    return None


@pytest.mark.parametrize("name", NAMES)
def test_what_is_refused_and_in_which_words_is_by_the_shipped_schema(name: str) -> None:
    schema, chance = wire.schema(name), random.Random(name)
    judge = Draft202012Validator(schema)

    def should_be(content: Any) -> tuple[str, str] | None:
        errors = sorted(judge.iter_errors(content), key=lambda error: [str(part) for part in error.path])
        return wire._words(errors[0]) if errors else None

    passed = refused = 0
    for _ in range(300):
        content = plain(schema, schema, chance)
        while not judge.is_valid(content):  # a condition may not be met
            content = plain(schema, schema, chance)
        for _ in range(6):
            told = answer(name, content)
            assert told == should_be(content), content
            passed, refused = passed + (told is None), refused + (told is not None)
            content = spoilt(content, chance)
    assert passed >= 300 and refused > 300, "neither may be rare"


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_what_is_no_object_keeps_no_schema(odd: Any) -> None:
    for name in NAMES:
        assert answer(name, odd) is not None
