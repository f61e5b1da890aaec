"""A quick yes to content that plainly keeps a schema; a no is for jsonschema to say, which takes ten times as long.

What is not plain is not looked into: `False` may mean that it keeps the schema all the same.
"""

import re
from collections.abc import Callable
from typing import Any

Test = Callable[[Any], bool]
Schema = dict[str, Any]

_ANNOTATIONS = {"$schema", "$id", "$defs", "title", "description", "then", "else"}
_TYPES: dict[str, Test] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "null": lambda value: value is None,
}


def test_of(schema: Schema, root: Schema) -> Test:
    """Raises KeyError for a keyword, and TypeError for a use of one, that is not known here."""
    tests = [_KEYWORDS[word](rule, schema, root) for word, rule in schema.items() if word not in _ANNOTATIONS]
    if len(tests) == 1:
        return tests[0]

    def keeps_all(value: Any) -> bool:
        for test in tests:  # noqa: SIM110  # a generator in all() takes twice as long
            if not test(value):
                return False
        return True

    return keeps_all


def _ref(rule: str, _schema: Schema, root: Schema) -> Test:
    return test_of(root["$defs"][rule.removeprefix("#/$defs/")], root)


def _type(rule: str | list[str], *_: Schema) -> Test:
    tests = [_TYPES[name] for name in ([rule] if isinstance(rule, str) else rule)]
    return tests[0] if len(tests) == 1 else lambda value: any(test(value) for test in tests)


def _enum(rule: list[str | int | None], *_: Schema) -> Test:
    if not all(isinstance(value, str | int | None) for value in rule):
        raise TypeError(f"only scalars are compared at a glance: {rule}")
    # To Python true equals 1, to JSON Schema it does not.
    allowed = frozenset((isinstance(value, bool), value) for value in rule)
    return lambda value: isinstance(value, str | int | None) and (isinstance(value, bool), value) in allowed


def _properties(rule: dict[str, Schema], schema: Schema, root: Schema) -> Test:
    tests = {name: test_of(part, root) for name, part in rule.items()}
    names = frozenset(tests)
    closed = schema.get("additionalProperties") is False

    def each_keeps_its_own(value: Any) -> bool:
        if not isinstance(value, dict):
            return True
        for name, part in value.items():
            if name in names:
                if not tests[name](part):
                    return False
            elif closed:
                return False
        return True

    return each_keeps_its_own


def _required(rule: list[str], *_: Schema) -> Test:
    names = frozenset(rule)
    return lambda value: not isinstance(value, dict) or names <= value.keys()


def _additional_properties(rule: bool, schema: Schema, _: Schema) -> Test:
    if rule or "properties" not in schema:
        raise TypeError("only additionalProperties: false beside properties is known at a glance")
    return lambda value: True


def _items(rule: Schema, _schema: Schema, root: Schema) -> Test:
    test = test_of(rule, root)
    return lambda value: not isinstance(value, list) or all(test(part) for part in value)


def _unique_items(rule: bool, *_: Schema) -> Test:
    def are_different_words(value: Any) -> bool:
        return not isinstance(value, list) or (
            all(isinstance(part, str) for part in value) and len(set(value)) == len(value)
        )

    return are_different_words if rule else lambda value: True


def _any_of(rule: list[Schema], _schema: Schema, root: Schema) -> Test:
    tests = [test_of(part, root) for part in rule]
    return lambda value: any(test(value) for test in tests)


def _if(rule: Schema, schema: Schema, root: Schema) -> Test:
    # Here a no must be a no: members that are held against a word, or against true or false.
    parts = rule["properties"].values() if rule.keys() == {"properties"} else [{}]
    if not all(part.keys() == {"const"} and isinstance(part["const"], str | bool) for part in parts):
        raise TypeError(f"only a condition on words is known at a glance: {rule}")
    condition = test_of(rule, root)
    then, otherwise = test_of(schema.get("then", {}), root), test_of(schema.get("else", {}), root)
    return lambda value: then(value) if condition(value) else otherwise(value)


def _pattern(rule: str, *_: Schema) -> Test:
    search = re.compile(rule).search
    return lambda value: not isinstance(value, str) or search(value) is not None


_KEYWORDS: dict[str, Callable[[Any, Schema, Schema], Test]] = {
    "$ref": _ref,
    "type": _type,
    "const": lambda rule, *roots: _enum([rule], *roots),
    "enum": _enum,
    "pattern": _pattern,
    "minLength": lambda rule, *_: lambda value: not isinstance(value, str) or len(value) >= rule,
    "maxLength": lambda rule, *_: lambda value: not isinstance(value, str) or len(value) <= rule,
    "minimum": lambda rule, *_: lambda value: not isinstance(value, int | float) or value >= rule,
    "properties": _properties,
    "required": _required,
    "additionalProperties": _additional_properties,
    "items": _items,
    "maxItems": lambda rule, *_: lambda value: not isinstance(value, list) or len(value) <= rule,
    "uniqueItems": _unique_items,
    "anyOf": _any_of,
    "if": _if,
}
