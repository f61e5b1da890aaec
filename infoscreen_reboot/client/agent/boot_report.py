"""Says why the boot before this one ended, from what was written down in that boot, without guessing."""

from dataclasses import dataclass
from datetime import datetime

from infoscreen_reboot.contract import wire
from infoscreen_reboot.contract.telemetry import BootReport, Cause


@dataclass(frozen=True, slots=True)
class Boot:
    """One boot of this host, and how the one before it ended; times in RFC 3339.

    `shutdown_began` is the mark: the agent has seen an orderly shutdown of this boot begin. The next boot has it as
    `clean_shutdown`.
    """

    boot_id: str
    last_seen_at: str
    shutdown_began: bool
    previous_boot_id: str | None
    previous_last_seen_at: str | None
    clean_shutdown: bool
    cause: Cause
    command_id: str | None
    is_reported: bool


def follow(previous: Boot | None, boot_id: str, now: datetime, executed: str | None, agent_was_down: bool) -> Boot:
    """The boot that follows `previous`.

    `executed` is the command whose execution started in `previous`. `agent_was_down` says that the agent was not
    running when `previous` ended, so it could not write the mark.
    """
    cause = _cause(previous, executed, agent_was_down)
    return Boot(
        boot_id=boot_id,
        last_seen_at=wire.format_time(now),
        shutdown_began=False,
        previous_boot_id=previous.boot_id if previous else None,
        previous_last_seen_at=previous.last_seen_at if previous else None,
        clean_shutdown=previous is not None and previous.shutdown_began,
        cause=cause,
        command_id=executed if cause is Cause.COMMAND else None,
        is_reported=False,
    )


def _cause(previous: Boot | None, executed: str | None, agent_was_down: bool) -> Cause:
    if previous is None:
        return Cause.UNKNOWN
    if previous.shutdown_began:
        return Cause.COMMAND if executed else Cause.LOCAL
    if executed or agent_was_down:
        # The power may have failed, or the host shut down and the agent did not see it: nobody can tell.
        return Cause.UNKNOWN
    return Cause.POWER_LOSS


def report(boot: Boot, client_uuid: str, started_at: datetime, now: datetime) -> BootReport:
    return BootReport(
        client_uuid=client_uuid,
        boot_id=boot.boot_id,
        previous_boot_id=boot.previous_boot_id,
        cause=boot.cause,
        command_id=boot.command_id,
        clean_shutdown=boot.clean_shutdown,
        boot_started_at=started_at,
        reported_at=now,
        previous_boot_last_seen_at=(
            datetime.fromisoformat(boot.previous_last_seen_at) if boot.previous_last_seen_at else None
        ),
    )
