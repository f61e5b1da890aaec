"""How a client stands, in one word: what an operator looks for first in a list of hundreds."""

from datetime import timedelta
from enum import StrEnum

# From then on a client that went down for a reboot is late: the display turns amber.
LATE_AFTER = timedelta(seconds=90)
# And red: it is given up, if `DEADLINE_BACK_S` says nothing else.
LOST_AFTER = timedelta(seconds=150)


class Condition(StrEnum):
    """The sickest first. Each client that was not rejected or retired has one."""

    NEEDS_PERSON = "needs_person"
    LATE = "late"
    OFFLINE = "offline"
    REBOOTING = "rebooting"
    HELD = "held"
    UNKNOWN = "unknown"
    HEALTHY = "healthy"


MEANINGS = {
    Condition.NEEDS_PERSON: "it did not come back by itself, or two hosts use its UUID",
    Condition.LATE: "it went down for a reboot, and is not back in time",
    Condition.OFFLINE: "it is not connected to the broker, and no command of ours is the reason",
    Condition.REBOOTING: "a command is on its way to it, or being executed",
    Condition.HELD: "it is online, and a command for it waits for a rule",
    Condition.UNKNOWN: "it was heard, and nobody has accepted it",
    Condition.HEALTHY: "it is online, and nothing is to be done",
}
