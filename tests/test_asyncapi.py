"""docs/asyncapi.yaml says what docs/contract.md, the code and the schemas say, in the words of AsyncAPI 3.0."""

from __future__ import annotations

import copy
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from infoscreen_reboot.contract import ack, command, signature, wire
from infoscreen_reboot.contract.signature import SIGNATURE_BYTES, Signature
from infoscreen_reboot.contract.topics import Topics

TREE = Path(__file__).resolve().parents[1]
DOCUMENT = TREE / "docs/asyncapi.yaml"
SCHEMAS = TREE / "infoscreen_reboot/contract/schemas"
CLIENT = "{client_uuid}"
# Rules that no schema can hold.
DOORS: dict[str, Callable[[bytes], object]] = {"command": command.parse, "ack": ack.parse}
# What AsyncAPI 3.0 wants of each kind of object, and what else of it is used here.
NEEDED = {
    "document": "asyncapi info defaultContentType servers channels operations components",
    "info": "title version description license",
    "server": "host protocol protocolVersion description security bindings",
    "channel": "address description parameters messages",
    "operation": "action summary channel messages bindings",
    "message": "title summary",
}
OPTIONAL = {"message": "correlationId headers payload examples contentType"}
# Draft 07's vocabulary as far as the schemas use it, and "$defs", which is only a place to point at.
DRAFT_07 = set(
    "$schema $id $ref $defs title description type properties required additionalProperties items enum const anyOf if"
    " then else minimum minLength maxLength maxItems uniqueItems pattern".split()
)


class UniqueKeys(yaml.SafeLoader):  # type: ignore[misc]  # Debian has no types for PyYAML
    """YAML forbids a key that stands twice; PyYAML keeps the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"a key stands twice: {node.start_mark}"
        content: dict[Any, Any] = super().construct_mapping(node, deep)
        return content


def load() -> Any:
    return yaml.load(DOCUMENT.read_text("utf-8"), UniqueKeys)


def references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        part = list(part.values())
    for inner in part if isinstance(part, list) else []:
        yield from references(inner)


def resolve(document: Any, reference: str) -> Any:
    """Raises KeyError or OSError where it leads nowhere."""
    place, _, pointer = reference.partition("#")
    found = json.loads((DOCUMENT.parent / place).read_text("utf-8")) if place else document
    for step in pointer.split("/")[1:]:
        found = found[step.replace("~1", "/").replace("~0", "~")]
    return found


def contract_table() -> dict[str, tuple[str, int, bool]]:
    """Of each topic in docs/contract.md: what the client does there, QoS and whether it is retained."""
    text = (TREE / "docs/contract.md").read_text("utf-8").partition("## Topics")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(.+?)` \| (.+?) \| (\d) \| (\w+) \|", text, re.MULTILINE)
    return {
        topic: ("receive" if sender == "controller" else "send", int(qos), retained == "yes")
        for topic, sender, qos, retained in rows
    }


def faults(document: Any) -> Iterator[str]:
    """What is wrong with the document, one sentence each."""
    dangling = [reference for reference in set(references(document)) if not _resolves(document, reference)]
    yield from (f"{reference} leads nowhere" for reference in dangling)
    if not dangling:
        yield from _shape_faults(document)
        yield from _topic_faults(document)
        yield from _message_faults(document)


def _resolves(document: Any, reference: str) -> bool:
    try:
        resolve(document, reference)
    except (KeyError, OSError):
        return False
    return True


def _shape_faults(document: Any) -> Iterator[str]:
    objects = [("document", "the document", document), ("info", "info", document["info"])]
    for kind, part in (("server", document["servers"]), ("channel", document["channels"])):
        objects += [(kind, name, content) for name, content in part.items()]
    objects += [("operation", name, content) for name, content in document["operations"].items()]
    objects += [("message", name, content) for name, content in document["components"]["messages"].items()]
    for kind, name, content in objects:
        needed = set(NEEDED[kind].split())
        if not needed <= set(content) <= needed | set(OPTIONAL.get(kind, "").split()):
            yield f"{kind} {name} has {sorted(content)}"
    if document["asyncapi"] != "3.0.0":
        yield f"AsyncAPI {document['asyncapi']}"
    if document["info"]["version"] != wire.SCHEMA_VERSION:
        yield f"version {document['info']['version']}"
    for name, channel in document["channels"].items():
        if re.findall(r"{(\w+)}", channel["address"]) != list(channel["parameters"]):
            yield f"parameters of {name}"
    for name, operation in document["operations"].items():
        where = operation["channel"]["$ref"]
        told = [message["$ref"] for message in operation["messages"]]
        if not where.startswith("#/channels/"):
            yield f"channel of {name}"
        elif told != [f"{where}/messages/{message}" for message in resolve(document, where)["messages"]]:
            yield f"messages of {name}"


def _topic_faults(document: Any) -> Iterator[str]:
    addresses = Counter(channel["address"] for channel in document["channels"].values())
    properties = (name for name, member in vars(Topics).items() if isinstance(member, property))
    if addresses != Counter(getattr(Topics(CLIENT), name) for name in properties):
        yield f"topics {sorted(addresses.elements())}"
    told = Counter[tuple[str, tuple[str, int, bool]]]()
    for operation in document["operations"].values():
        mqtt = operation["bindings"]["mqtt"]
        channel = resolve(document, operation["channel"]["$ref"])
        told[channel["address"], (operation["action"], mqtt["qos"], mqtt["retain"])] += 1
    if told != Counter(contract_table().items()):
        yield f"operations {sorted(told.elements())}"
    will = document["servers"]["broker"]["bindings"]["mqtt"]["lastWill"]
    if (will["topic"], will["qos"], will["retain"]) != (Topics(CLIENT).status, 1, True):
        yield "the will"


def _message_faults(document: Any) -> Iterator[str]:
    used = []
    for name, message in document["components"]["messages"].items():
        if f"#/components/messages/{name}" not in references(document["channels"]):
            yield f"{name} is on no channel"
        if "payload" not in message:
            continue
        file = DOCUMENT.parent / message["payload"]["schema"]["$ref"]
        used.append(file.resolve())
        if not message.get("examples"):
            yield f"{name} has no example"
        for example in message.get("examples", []):
            try:
                wire.check(file.name.removesuffix(".schema.json"), example["payload"])
                if name in DOORS:
                    DOORS[name](wire.encode(example["payload"]))
            except wire.ContractError as error:
                yield f"example {example['name']} of {name}: {error}"
    headers = document["components"]["messages"]["command"]["headers"]["properties"]
    signed = dict(signature.properties(Signature("2026a", bytes(range(SIGNATURE_BYTES)))))
    if set(headers) != set(signed) or not all(re.search(headers[name]["pattern"], signed[name]) for name in headers):
        yield f"headers of command: {headers}"
    if sorted(used) != sorted(SCHEMAS.iterdir()):
        yield f"schemas {sorted(file.name for file in used)}"


def test_a_key_that_stands_twice_is_no_document() -> None:
    with pytest.raises(AssertionError, match="stands twice"):
        yaml.load("channels:\n  health: 1\n  health: 2\n", UniqueKeys)


def test_the_document_says_what_the_contract_and_the_code_say() -> None:
    assert list(faults(load())) == []


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        ("asyncapi", "2.6.0", "AsyncAPI 2.6.0"),
        ("info/version", "1.1", "version 1.1"),
        ("info/titel", "x", "info info has"),
        ("channels/health", ..., "#/channels/health leads nowhere"),
        ("channels/health/address", "infoscreen/{client_uuid}/wealth", "topics"),
        ("channels/health/parameters", {}, "parameters of health"),
        ("channels/twice", "channels/health", "topics"),
        ("operations/sendHealth", ..., "operations"),
        ("operations/sendHealth/action", "receive", "operations"),
        ("operations/sendBootReport/bindings/mqtt/qos", 0, "operations"),
        ("operations/sendHealth/bindings/mqtt/retain", True, "operations"),
        ("operations/sendFailureAlert/messages", [], "messages of sendFailureAlert"),
        ("servers/broker/bindings/mqtt/lastWill/retain", False, "the will"),
        ("components/messages/ack/payload/schema/$ref", "ack.schema.json", "ack.schema.json leads nowhere"),
        ("components/messages/status/payload", ..., "schemas"),
        ("components/messages/status/examples", [], "status has no example"),
        ("components/messages/ack/examples/0/payload/status", "done", "example accepted of ack"),
        ("components/messages/command/examples/0/payload/expires_at", "2026-04-03T12:48:09Z", "example reboot"),
        ("components/messages/command/headers/properties/signature/pattern", "^[0-9a-f]{128}$", "headers of command"),
        ("components/messages/orphan", "components/messages/failureAlertCleared", "orphan is on no channel"),
    ],
)
def test_a_change_that_the_rest_does_not_follow_is_found(path: str, value: Any, fault: str) -> None:
    document = copy.deepcopy(load())
    *way, last = path.split("/")
    part = document
    for step in way:
        part = part[int(step) if isinstance(part, list) else step]
    if value is ...:
        del part[last]
    elif isinstance(value, str) and value.startswith(f"{path.partition('/')[0]}/"):
        part[last] = resolve(document, f"#/{value}")
    else:
        part[last] = value
    assert any(found.startswith(fault) for found in faults(document)), list(faults(document))


@pytest.mark.parametrize("path", sorted(SCHEMAS.iterdir()), ids=lambda path: path.name)
def test_draft_07_which_the_document_names_reads_the_schemas_as_2020_12_does(path: Path) -> None:
    def check(schema: Any) -> None:
        assert set(schema) <= DRAFT_07
        # Draft 07 ignores what stands beside a reference.
        assert "$ref" not in schema or len(schema) == 1
        for word in ("properties", "$defs"):
            for inner in schema.get(word, {}).values():
                check(inner)
        for inner in (schema[word] for word in ("items", "if", "then", "else") if word in schema):
            check(inner)
        for inner in schema.get("anyOf", []):
            check(inner)

    content = json.loads(path.read_text("utf-8"))
    check(content)
    Draft7Validator.check_schema(content)
