"""The rules that all payloads share: strict JSON, UTC times, UUIDs and the shipped JSON Schemas."""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from jsonschema import Draft202012Validator

SCHEMA_VERSION = "1.0"

_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_UTC_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?(?:Z|\+00:00)")


# Holds a content against the schema of this name. Raises ContractError, with the command id if one is given.
Check = Callable[[str, dict[str, Any], str | None], None]


class ContractError(ValueError):
    """A payload breaks the contract: which field and which rule.

    `command_id` is the id that could be read all the same, or None.
    """

    def __init__(self, field: str, rule: str, command_id: str | None = None) -> None:
        super().__init__(f"{field}: {rule}" if field else rule)
        self.field = field
        self.rule = rule
        self.command_id = command_id


def decode(payload: bytes, max_bytes: int) -> dict[str, Any]:
    """Read one JSON object, refusing what lenient parsers let through.

    Raises ContractError for more than `max_bytes`, bytes that are not UTF-8, text that is not one JSON object,
    duplicate member names at any depth, NaN, Infinity and numbers that overflow to it.
    """
    if len(payload) > max_bytes:
        raise ContractError("", f"payload is {len(payload)} bytes, allowed are {max_bytes}")
    try:
        text = payload.decode("utf-8")
        content = _STRICT.decode(text)
        if "\\u" in text:
            # An escaped lone surrogate is JSON but no Unicode text: nothing behind this door could store it.
            _PLAIN.encode(content).encode("utf-8")
    except UnicodeError:
        raise ContractError("", "payload is not UTF-8") from None
    except ContractError:
        raise
    except (ValueError, RecursionError):
        raise ContractError("", "payload is not JSON") from None
    if not isinstance(content, dict):
        raise ContractError("", "payload is not a JSON object")
    return content


def encode(content: dict[str, Any]) -> bytes:
    """The one byte form of a payload that we send."""
    return _PLAIN.encode(content).encode("utf-8")


@cache
def schema(name: str) -> dict[str, Any]:
    """The shipped JSON Schema `name`, as `command`."""
    text = Path(__file__).with_name("schemas").joinpath(f"{name}.schema.json").read_text("utf-8")
    content: dict[str, Any] = json.loads(text)
    return content


@cache
def resolved(name: str) -> dict[str, Any]:
    """The same without `$ref` and `$defs`."""
    content = schema(name)
    rules: dict[str, Any] = _with_references_resolved(content, content["$defs"])
    return {word: rule for word, rule in rules.items() if word != "$defs"}


@cache
def _validator(name: str) -> Any:
    return Draft202012Validator(resolved(name))


def _with_references_resolved(part: Any, definitions: dict[str, Any]) -> Any:
    """The same rules without `$ref`: jsonschema looks each up for each value, on trixie half of its time for a command.

    In our schemas nothing stands beside a reference, and none leads back to itself.
    """
    match part:
        case {"$ref": reference}:
            return _with_references_resolved(definitions[reference.removeprefix("#/$defs/")], definitions)
        case dict():
            return {word: _with_references_resolved(rule, definitions) for word, rule in part.items()}
        case list():
            return [_with_references_resolved(rule, definitions) for rule in part]
    return part


def load() -> None:
    """Have all that `check` will ever need in memory: an upgrade may replace our files and jsonschema's at any time."""
    for file in Path(__file__).with_name("schemas").glob("*.schema.json"):
        next(_validator(file.name.removesuffix(".schema.json")).iter_errors({}), None)


def check(name: str, content: dict[str, Any], command_id: str | None = None) -> None:
    """Hold `content` against the shipped schema `name`; ContractError names the first broken field and its rule."""
    errors = sorted(_validator(name).iter_errors(content), key=lambda error: [str(p) for p in error.path])
    if errors:
        raise ContractError(*_words(errors[0]), command_id)


def _words(error: Any) -> tuple[str, str]:
    """The field and the rule of what jsonschema found; a member that is missing or too much is the field itself."""
    path = [str(part) for part in error.path]
    match error.validator:
        case "required":
            missing = next(name for name in error.validator_value if name not in error.instance)
            return ".".join([*path, missing]), "is missing"
        case "additionalProperties":
            extra = next(name for name in error.instance if name not in error.schema["properties"])
            # Whoever chose this name may have meant it to break the line in which it is shown.
            return ".".join([*path, ascii(extra)[1:-1][:64] or "''"]), "is not a member that is allowed"
        case "pattern":
            return ".".join(path), f"is not {error.schema['description']}"
    is_short = len(error.message) <= 200
    return ".".join(path), error.message if is_short else f"breaks the rule '{error.validator}'"


def is_uuid(text: object) -> bool:
    return isinstance(text, str) and _UUID.fullmatch(text) is not None


def parse_time(text: str, field: str, command_id: str | None = None) -> datetime:
    """An RFC 3339 time in UTC; ContractError names `field` where it is none, or names no real moment."""
    if _UTC_TIME.fullmatch(text) is not None:
        whole, _, fraction = text.removesuffix("+00:00").removesuffix("Z").partition(".")
        try:
            moment = datetime.fromisoformat(whole).replace(tzinfo=UTC)
        except ValueError:
            raise ContractError(field, f"{text!r} is no real moment", command_id) from None
        # Nanoseconds are legal on the wire; Python keeps microseconds.
        return moment.replace(microsecond=int(fraction.ljust(6, "0")[:6]) if fraction else 0)
    raise ContractError(field, f"{text[:64]!r} is not an RFC 3339 time in UTC", command_id)


def format_time(moment: datetime) -> str:
    """RFC 3339 in UTC with milliseconds, as 2026-04-03T12:48:11.204Z."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ContractError("", "payload has duplicate member names")
    return content


def _refuse_constant(word: str) -> NoReturn:
    raise ContractError("", f"payload holds {word}, which is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ContractError("", "payload holds a number that overflows")
    return number


# Made once: json.loads() and json.dumps() make theirs anew for each call that has options.
_STRICT = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite)
_PLAIN = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
