"""Payloads for `command.parse`: a generator of what is nearly a command, a judge of each answer, and atheris."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import string
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tools.fuzzing.outcome import Outcome, resident_mb

CLIENT = "9b8d1856-ff34-4864-a726-12de072d0f77"
MAY_GROW_MB = 16
MAX_LEN = 6000
TIMES = (
    "2020-04-03T12:48:10Z", "2020-04-03T12:48:10.123456789Z", "2020-04-03T12:48:10+00:00", "2020-04-03T12:48:10+02:00",
    "2020-04-03T12:48:60Z", "2020-02-29T00:00:00Z", "0000-00-00T00:00:00Z", "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59.999999999Z", "2020-04-03 12:48:10Z", "٢٠٢٠-04-03T12:48:10Z", "2020-04-03T12:48:10", "now",
)  # fmt: skip
WORDS = (
    "reboot_host", "shutdown_host", "REBOOT_HOST", "1.0", "1", "", "\0", "\n", "x" * 129, "x" * 501, "😀" * 500,
    "\ud800", "\uffff", "$(reboot)", "'; DROP TABLE command; --", "%s%n{0}{0.__class__}", "../../etc/passwd", *TIMES,
)  # fmt: skip
NUMBERS = (0, 1, -1, 1.0, 17, 2**31, 2**53 + 1, 2**63, -(2**64), 10**400, 0.1, 1e308)
DICTIONARY = (
    *("schema_version", "command_id", "client_uuid", "action", "issued_at", "expires_at", "requested_by", "reason"),
    *("reboot_host", "shutdown_host", "1.0", "null", "true", "NaN", "-Infinity", "1e999", "2020-04-03T12:48:10Z"),
    *(CLIENT, "+00:00", "\\ud800", "\\u0000", '":"', '","', "{}", "[[[[", '{"', '"}'),
)


def a_command(rng: random.Random, client: str = CLIENT) -> dict[str, Any]:
    """Valid, of long ago, and new each time."""
    at = datetime(2020, 4, 3, tzinfo=UTC) + timedelta(seconds=rng.randrange(10**7))
    return {
        "schema_version": "1.0",
        "command_id": str(uuid.UUID(int=rng.getrandbits(128), version=4)),
        "client_uuid": client,
        "action": rng.choice(["reboot_host", "shutdown_host"]),
        "issued_at": at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "expires_at": (at + timedelta(seconds=rng.randrange(1, 86401))).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "requested_by": rng.choice(["operator:17", 17, None]),
        "reason": rng.choice(["player frozen", None]),
    }


def a_value(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.randrange(8 if depth < 3 else 6)
    if kind < 2:
        return rng.choice(WORDS)
    if kind == 2:
        return "".join(
            chr(rng.choice([rng.randrange(32), rng.randrange(128), rng.randrange(0xD800)])) for _ in range(9)
        )
    if kind < 5:
        return rng.choice([None, True, False, *NUMBERS])
    if kind == 5:
        return rng.choice([[], {}, CLIENT, CLIENT.upper(), rng.choice(string.printable) * rng.randrange(700)])
    if kind == 6:
        return [a_value(rng, depth + 1) for _ in range(rng.randrange(3))]
    return {rng.choice(DICTIONARY): a_value(rng, depth + 1) for _ in range(rng.randrange(3))}


def nearly(rng: random.Random, content: dict[str, Any]) -> bytes:
    """The command with up to three things wrong, now and then with none."""
    content = dict(content)
    for _ in range(rng.randrange(4)):
        match rng.randrange(5):
            case 0 if content:
                del content[rng.choice(list(content))]
            case 1:
                content[str(rng.choice([*DICTIONARY, a_value(rng)]))] = a_value(rng)
            case _ if content:
                content[rng.choice(list(content))] = a_value(rng)
    options: dict[str, Any] = rng.choice([{}, {"indent": 1}, {"ensure_ascii": False}, {"separators": (",", ":")}])
    payload = json.dumps(content, **options).encode("utf-8", "surrogatepass")
    return spoilt(rng, payload) if rng.random() < 0.3 else payload


def spoilt(rng: random.Random, payload: bytes) -> bytes:
    """The bytes with one thing wrong that JSON itself could not say."""
    at = rng.randrange(len(payload) + 1)
    match rng.randrange(10):
        case 0:
            return payload[:at]
        case 1:
            return payload[:at] + rng.randbytes(rng.randrange(1, 9)) + payload[at:]
        case 2:
            return payload[:at] + rng.choice(DICTIONARY).encode() + payload[at:]
        case 3:
            return payload[:-1] + b", " + payload[1:]  # every member twice
        case 4:
            return payload + b" " * max(0, 4096 - len(payload) + rng.randrange(-1, 2))
        case 5:
            return b"\xef\xbb\xbf" + payload
        case 6:
            return payload.decode("utf-8", "replace").encode(rng.choice(["utf-16", "utf-32", "utf-7"]))
        case 7:
            return payload.replace(b"null", rng.choice([b"NaN", b"-Infinity", b"1e999", b"-0", b"0x1", b"nul"]))
        case 8:
            return b"[" * rng.randrange(5000) + payload
        case _:
            return payload + payload


class Wrong(Exception):
    """An answer of `parse` that is no answer."""


def judge(read: Callable[[bytes], Any], payload: bytes) -> str:
    """The kind of answer. Raises Wrong, or what `read` raised, where it is no right Command and no ContractError."""
    from infoscreen_reboot.contract import command
    from infoscreen_reboot.contract.wire import ContractError

    try:
        answer = read(payload)
    except ContractError as refusal:
        names_something = refusal.field or refusal.rule.startswith("payload ")
        if not names_something or not refusal.rule or len(str(refusal)) > 600:
            raise Wrong(f"a refusal without field and rule: {str(refusal)[:600]!r}") from refusal
        if refusal.command_id is not None and refusal.command_id != str(uuid.UUID(refusal.command_id)):
            raise Wrong(f"no id: {refusal.command_id!r}") from refusal
        if refusal.command_id is None:
            return "unreadable"
        command.say_the_same(payload, payload.strip())  # as the agent will
        return "refused by its id"
    if not isinstance(answer, command.Command):
        raise Wrong(f"neither a command nor a refusal: {answer!r}")
    # By other means than those of the product.
    content = json.loads(payload)
    optional = {"requested_by", "reason"}
    required = set(a_command(random.Random(0))) - optional
    validity = answer.expires_at - answer.issued_at
    is_right = (
        len(payload) <= 4096
        and required <= set(content) <= required | optional
        and content["schema_version"] == "1.0"
        and content["action"] == answer.action
        and all(str(uuid.UUID(content[n])) == getattr(answer, n) for n in ("command_id", "client_uuid"))
        and timedelta(0) < validity <= timedelta(days=1)
        and all(getattr(answer, n) == content.get(n) for n in optional)
        and len(str(answer.requested_by)) <= 4096
        and len(answer.reason or "") <= 500
    )
    if not is_right:
        raise Wrong(f"this is no command: {payload!r}")
    return "commands"


def fuzz(directory: Path, runs: int, seed: int, program: Sequence[str] = ("-m", "tools.fuzzing.payloads")) -> Outcome:
    """In a process of its own, since libFuzzer ends its process; `directory` is empty and keeps what crashed."""
    options = [f"--runs={runs}", f"--seed={seed}", f"--directory={directory}"]
    with (directory / "log").open("wb") as log:
        status = subprocess.run([sys.executable, *program, *options], stdout=log, stderr=log, check=False).returncode
    report = directory / "report.json"
    outcome = Outcome("payloads, parse()", runs, MAY_GROW_MB)
    if report.exists():
        outcome = Outcome(**json.loads(report.read_text()))
    if status != 0:
        outcome.crashes += 1
        text = (directory / "log").read_text(errors="replace")
        outcome.complaints.append(f"ended with {status}, see {directory}:\n{text[-3000:]}")
    return outcome


def main(argv: list[str], read: Callable[[bytes], Any] | None = None) -> None:
    """Ends the process: with 0 after `--runs` payloads or `--seconds`, else with the traceback of what went wrong."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--seconds", type=int, default=1800)
    parser.add_argument("--directory", type=Path, required=True, help="for the corpus, the report and what crashed")
    options = parser.parse_args(argv)
    is_guided = importlib.util.find_spec("atheris") is not None
    if is_guided:
        import atheris

        with atheris.instrument_imports(include=["infoscreen_reboot.contract"]):
            from infoscreen_reboot.contract import command
    else:
        from infoscreen_reboot.contract import command

    outcome = Outcome("payloads, parse()", options.runs, MAY_GROW_MB)
    parse, started, kinds = read or command.parse, time.monotonic(), Counter[str]()
    engine = "atheris" if is_guided else "NOT guided by coverage: there is no atheris for this machine"

    def report() -> None:
        outcome.note = ", ".join([engine, *(f"{number} {kind}" for kind, number in kinds.most_common())])
        outcome.seconds, outcome.after_mb = time.monotonic() - started, resident_mb(os.getpid())
        (options.directory / "report.json").write_text(json.dumps(asdict(outcome)))

    def one(payload: bytes) -> None:
        kinds[judge(parse, payload)] += 1
        outcome.done += 1
        if outcome.done == 1 + options.runs // 5:  # by now all is imported, cached and compiled
            outcome.before_mb = resident_mb(os.getpid())
        if outcome.done % 20_000 == 0 or outcome.done == options.runs:
            report()
        if outcome.done == options.runs:
            sys.stdout.flush()
            os._exit(0)

    if not is_guided:
        rng = random.Random(options.seed)
        while time.monotonic() < started + options.seconds:
            one(nearly(rng, a_command(rng)))
        os._exit(0)
    rng = random.Random(options.seed)
    corpus = options.directory / "corpus"
    corpus.mkdir()
    for number in range(200):
        seed = a_command(rng)
        (corpus / str(number)).write_bytes(json.dumps(seed).encode() if number < 20 else nearly(rng, seed))
    quoted = (json.dumps(word) for word in DICTIONARY)  # libFuzzer reads the same escapes, but for \u
    (options.directory / "words").write_text("\n".join(word for word in quoted if "\\u" not in word) + "\n")

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.5:
            return bytes(atheris.Mutate(data, max_size))
        try:
            content = json.loads(data)
        except (ValueError, RecursionError):
            content = None
        return nearly(rng, content if isinstance(content, dict) else a_command(rng))[:max_size]

    fuzzer = [
        sys.argv[0], f"-seed={options.seed}", f"-max_len={MAX_LEN}", f"-max_total_time={options.seconds}",
        f"-dict={options.directory / 'words'}", f"-artifact_prefix={options.directory}/", "-len_control=0",
        "-print_final_stats=1", "-verbosity=0", "-rss_limit_mb=1024", "-timeout=20", str(corpus),
    ]  # fmt: skip
    atheris.Setup(fuzzer, one, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
