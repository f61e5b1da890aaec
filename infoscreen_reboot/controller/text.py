"""What people may write into names, reasons, notes and labels: no characters that steer a terminal or hide others."""

import re

from infoscreen_reboot.contract import wire
from infoscreen_reboot.controller import selection

# C0 and C1 control characters, the two separators of lines, and what turns the direction of writing round.
_STEERING = r"\x7f-\x9f\u2028-\u202e\u2066-\u2069"
# In the common part of regular expressions in Python, Rust (pydantic) and JavaScript (JSON Schema).
LINE = rf"^[^\x00-\x1f{_STEERING}]*$"
LINES = rf"^[^\x00-\x09\x0b-\x1f{_STEERING}]*$"
# Characters; of a reason as the contract allows them.
MOST_NAME = 128
MOST_REASON = 500
MOST_NOTE = 2000
# Of one client.
MOST_LABELS = 64
# Also a part of an address: /users/NAME.
USER_NAME = r"^[A-Za-z0-9](?:[A-Za-z0-9._@ -]{0,62}[A-Za-z0-9])?$"


def is_clean(text: str, pattern: str) -> bool:
    """In Python `$` also stands before a newline at the end."""
    return re.fullmatch(pattern.removeprefix("^").removesuffix("$"), text) is not None


def fault_of_name(name: str) -> str | None:
    """Why this cannot be the name of a client; None if it can."""
    if not 0 < len(name) <= MOST_NAME:
        return f"a name has 1 to {MOST_NAME} characters"
    if name != name.strip() or not is_clean(name, LINE):
        return "a name has no control characters, and no space before or after it"
    if wire.is_uuid(name):
        return "a name may not look like a UUID: it could be taken for another client"
    return None


def fault_of_note(note: str) -> str | None:
    if len(note) > MOST_NOTE:
        return f"a note has at most {MOST_NOTE} characters"
    if not is_clean(note, LINES):
        return "a note has no control characters, but for the end of a line"
    return None


def fault_of_label(key: str, value: str | None) -> str | None:
    """`value` is None where the label is removed."""
    if not selection.KEY.fullmatch(key):
        return f"{key[:64]!r} cannot be the key of a label"
    if value is not None and not selection.VALUE.fullmatch(value):
        return f"{value[:64]!r} cannot be the value of the label {key}"
    return None
