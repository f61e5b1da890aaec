"""The tables, for SQLite and PostgreSQL alike.

Times are whole microseconds since 1970 in UTC: both databases then compare and index them in the same way, and a batch
of facts can be handed over as JSON. UUIDs are text in lower case, as on the wire.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    literal_column,
    text,
)
from sqlalchemy.types import JSON, TypeDecorator

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_number(moment: datetime) -> int:
    """How a time stands in the database."""
    return (moment - _EPOCH) // _MICROSECOND


def to_moment(number: int) -> datetime:
    return _EPOCH + number * _MICROSECOND


class Moment(TypeDecorator[datetime]):
    """A time with its zone on our side, a number in the database."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        return None if value is None else to_number(value)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:
        return None if value is None else to_moment(value)


class Rank(Integer):
    """A number that a query compares as it stands, and not as a parameter.

    The index of open commands is for rows with `rank < 5`. Neither database uses it for `rank < ?`: both would read all
    commands that there ever were.
    """

    class Comparator(Integer.Comparator[int]):
        def operate(self, op: Any, *other: Any, **kwargs: Any) -> Any:
            plain = [literal_column(str(each)) if isinstance(each, int) else each for each in other]
            return super().operate(op, *plain, **kwargs)

    comparator_factory = Comparator


# SQLite numbers rows by itself only where the key is an INTEGER.
_SEQUENCE = BigInteger().with_variant(Integer, "sqlite")
_UUID = String(36)

metadata = MetaData()

client = Table(
    "client",
    metadata,
    Column("uuid", _UUID, primary_key=True),
    Column("standing", String(16), nullable=False),
    Column("name", String(128)),
    Column("note", Text),
    Column("first_heard_at", Moment),
    Column("heard_at", Moment),
    Column("is_online", Boolean, nullable=False, server_default=text("false")),
    Column("presence_reason", String(32)),
    Column("presence_at", Moment),
    Column("presence_told_at", Moment),
    Column("session_id", Text),
    # The sessions that have ended, newest first: what still comes of them is not news.
    Column("ended_sessions", JSON, nullable=False, server_default=text("'[]'")),
    Column("boot_id", _UUID),
    Column("two_hosts_at", Moment),
    Column("retired_at", Moment),
    Index("client_name", "name"),
    Index("client_standing", "standing"),
)

label = Table(
    "label",
    metadata,
    Column("client_uuid", _UUID, ForeignKey("client.uuid", ondelete="CASCADE"), primary_key=True),
    Column("key", String(64), primary_key=True),
    Column("value", String(256), nullable=False),
    Index("label_value", "key", "value"),
)

preview = Table(
    "preview",
    metadata,
    Column("hash", String(64), primary_key=True),
    Column("made_at", Moment, nullable=False),
    Column("made_by", String(128), nullable=False),
    Column("content", JSON, nullable=False),
)

batch = Table(
    "batch",
    metadata,
    Column("id", _UUID, primary_key=True),
    Column("action", String(16), nullable=False),
    Column("reason", Text),
    Column("selector", Text),
    Column("preview_hash", String(64)),
    Column("created_at", Moment, nullable=False),
    Column("created_by", String(128), nullable=False),
    Column("via", String(32), nullable=False),
    Column("send_at", Moment, nullable=False),
    Column("wait_until", Moment),
    Column("idempotency_key", String(128)),
    Column("request_digest", String(64)),
    UniqueConstraint("created_by", "idempotency_key", name="batch_key"),
)

command = Table(
    "command",
    metadata,
    Column("id", _UUID, primary_key=True),
    # No foreign key: what was done to a client outlives its row.
    Column("client_uuid", _UUID, nullable=False),
    Column("batch_id", _UUID, ForeignKey("batch.id")),
    Column("action", String(16), nullable=False),
    Column("reason", Text),
    Column("created_at", Moment, nullable=False),
    Column("created_by", String(128), nullable=False),
    Column("via", String(32), nullable=False),
    Column("address", String(64)),
    Column("idempotency_key", String(128)),
    Column("request_digest", String(64)),
    Column("someone_is_there", Boolean, nullable=False, server_default=text("false")),
    # What holds a queued command that nobody has given to the broker, and for how long it may wait.
    Column("not_before", Moment),
    Column("wait_until", Moment),
    Column("hold_rule", String(32)),
    Column("hold_why", Text),
    Column("hold_opens_at", Moment),
    # The record of `lifecycle`.
    Column("state", String(24), nullable=False),
    Column("rank", Rank, nullable=False),
    Column("expires_at", Moment, nullable=False),
    Column("sent_at", Moment),
    Column("published_at", Moment),
    Column("accepted_at", Moment),
    Column("started_at", Moment),
    Column("started_boot_id", _UUID),
    Column("down_at", Moment),
    Column("back_at", Moment),
    Column("back_boot_id", _UUID),
    Column("ended_at", Moment),
    Column("ended_boot_id", _UUID),
    Column("error_code", String(32)),
    Column("error_message", Text),
    Column("overdue", String(32)),
    Column("late", String(24)),
    Column("late_at", Moment),
    # The limits of its steps where a label sets other ones than the fleet's, in seconds.
    Column("limits", JSON),
    # In which boot the client was when the bytes first went out.
    Column("sent_boot_id", _UUID),
    # When the engine looks at it next, and when the client was last asked for its ack.
    Column("due_at", Moment),
    Column("asked_at", Moment),
    Column("asks", Integer, nullable=False, server_default=text("0")),
    Column("last_event", _SEQUENCE),
    UniqueConstraint("created_by", "idempotency_key", name="command_key"),
    Index("command_client", "client_uuid", "created_at"),
    Index("command_batch", "batch_id", "state"),
    Index("command_created", "created_at", "id"),
    Index(
        "command_due", "due_at", postgresql_where=text("due_at IS NOT NULL"), sqlite_where=text("due_at IS NOT NULL")
    ),
    Index("command_open", "client_uuid", "rank", postgresql_where=text("rank < 5"), sqlite_where=text("rank < 5")),
)

outbox = Table(
    "outbox",
    metadata,
    Column("command_id", _UUID, ForeignKey("command.id", ondelete="CASCADE"), primary_key=True),
    Column("client_uuid", _UUID, nullable=False),
    Column("topic", Text, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("properties", JSON, nullable=False),
    # When it goes out (again); null while nothing is to be sent. The row goes when the command has ended.
    Column("send_at", Moment),
    Index(
        "outbox_send", "send_at", postgresql_where=text("send_at IS NOT NULL"), sqlite_where=text("send_at IS NOT NULL")
    ),
)

batch_member = Table(
    "batch_member",
    metadata,
    Column("batch_id", _UUID, ForeignKey("batch.id", ondelete="CASCADE"), primary_key=True),
    Column("client_uuid", _UUID, primary_key=True),
    Column("command_id", _UUID, ForeignKey("command.id"), nullable=False),
)

event = Table(
    "event",
    metadata,
    Column("seq", _SEQUENCE, primary_key=True),
    Column("at", Moment, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("client_uuid", _UUID),
    Column("command_id", _UUID),
    Column("batch_id", _UUID),
    Column("content", JSON, nullable=False),
    Index("event_command", "command_id", "seq"),
    Index("event_client", "client_uuid", "seq"),
    Index(
        "event_batch",
        "batch_id",
        "seq",
        postgresql_where=text("batch_id IS NOT NULL"),
        sqlite_where=text("batch_id IS NOT NULL"),
    ),
    # A number is never given twice, even if all events were deleted: readers go on behind the last one that they saw.
    sqlite_autoincrement=True,
)

boot = Table(
    "boot",
    metadata,
    Column("client_uuid", _UUID, primary_key=True),
    Column("boot_id", _UUID, primary_key=True),
    Column("first_heard_at", Moment, nullable=False),
    Column("heard_at", Moment, nullable=False),
    # How often this boot came back after another one was heard: one host cannot do that.
    Column("returns", Integer, nullable=False, server_default=text("0")),
    Column("report", JSON),
    Column("reported_at", Moment),
    Index("boot_client", "client_uuid", "heard_at"),
)

health = Table(
    "health",
    metadata,
    Column("client_uuid", _UUID, primary_key=True),
    Column("heard_at", Moment, nullable=False),
    Column("content", Text, nullable=False),
)

alert = Table(
    "alert",
    metadata,
    Column("id", _SEQUENCE, primary_key=True),
    Column("client_uuid", _UUID, nullable=False),
    Column("unit", String(256), nullable=False),
    Column("raised_at", Moment, nullable=False),
    Column("cleared_at", Moment),
    Column("content", JSON, nullable=False),
    Index("alert_standing", "client_uuid", "cleared_at"),
)

freeze = Table(
    "freeze",
    metadata,
    Column("id", _SEQUENCE, primary_key=True),
    Column("why", Text, nullable=False),
    Column("made_by", String(128), nullable=False),
    Column("made_at", Moment, nullable=False),
    # Of an event of the calendar: which one, and when it begins. A freeze by hand begins when it is made.
    Column("event", String(64)),
    Column("begins_at", Moment),
    Column("until", Moment),
    Column("ended_at", Moment),
    Column("ended_by", String(128)),
    Index("freeze_event", "event", unique=True),
)

# How reading a calendar has ended: of the freezes, there is one row.
calendar = Table(
    "calendar",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("file", Text, nullable=False),
    # When it was last read without a fault, and how many events there were.
    Column("read_at", Moment),
    Column("events", Integer),
    # Why it could not be read, and since when; null: it could.
    Column("fault", Text),
    Column("fault_since", Moment),
)

# What is known of a place, by the value of the label `site` of its clients.
site = Table(
    "site",
    metadata,
    Column("name", String(256), primary_key=True),
    # An IANA zone; null: the fleet's.
    Column("zone", String(64)),
    # When people look at the screens, as a window of the settings: `mon-fri 08:00 12h`; null: always.
    Column("opening_hours", Text),
    Column("note", Text),
)

# What people are to be told. Whoever writes one says what happened; `notify` decides to whom it goes, and when.
notice = Table(
    "notice",
    metadata,
    Column("id", _SEQUENCE, primary_key=True),
    Column("at", Moment, nullable=False),
    Column("kind", String(32), nullable=False),
    # What it is about, as `rollout/<id>` or `client/<uuid>`: of one thing each kind is told once while it stands.
    Column("subject", String(160), nullable=False),
    Column("words", Text, nullable=False),
    Column("content", JSON, nullable=False),
    Column("site", String(256)),
    # When it was decided whether a message tells it, and which one does; null: none.
    Column("settled_at", Moment),
    Column("message_id", _SEQUENCE),
    Index("notice_subject", "subject", "kind"),
    Index("notice_pending", "id", postgresql_where=text("settled_at IS NULL"), sqlite_where=text("settled_at IS NULL")),
    sqlite_autoincrement=True,
)

# What notices have become, and to whom it goes: the outbox of what people are told.
message = Table(
    "message",
    metadata,
    Column("id", _SEQUENCE, primary_key=True),
    Column("made_at", Moment, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("title", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("is_loud", Boolean, nullable=False),
    Column("content", JSON, nullable=False),
    Index("message_kind", "kind", "made_at"),
    sqlite_autoincrement=True,
)

delivery = Table(
    "delivery",
    metadata,
    Column("message_id", _SEQUENCE, ForeignKey("message.id", ondelete="CASCADE"), primary_key=True),
    Column("target", String(64), primary_key=True),
    # waiting, sent or failed; why it was not sent is in `words`.
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("next_at", Moment),
    Column("ended_at", Moment),
    Column("words", Text),
    Index(
        "delivery_next",
        "next_at",
        postgresql_where=text("next_at IS NOT NULL"),
        sqlite_where=text("next_at IS NOT NULL"),
    ),
)

# --- Schedules

# A rule that makes commands night after night. Those that were deleted stay, for what they have done.
schedule = Table(
    "schedule",
    metadata,
    Column("id", _UUID, primary_key=True),
    Column("name", String(64), nullable=False),
    Column("selector", Text, nullable=False),
    Column("action", String(16), nullable=False),
    Column("rule", String(256), nullable=False),
    # Local time, as `04:00`, in `zone`; null: in each client's own.
    Column("start", String(5), nullable=False),
    Column("zone", String(64)),
    Column("window_min", Integer, nullable=False),
    Column("spread_min", Integer, nullable=False),
    Column("back_by_min", Integer, nullable=False),
    # The day from which intervals count.
    Column("anchor", String(10), nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("created_by", String(128), nullable=False),
    # No night that began before this is one of it as it now is.
    Column("changed_at", Moment, nullable=False),
    Column("changed_by", String(128), nullable=False),
    Column("version", Integer, nullable=False, server_default=text("1")),
    # Until when nights were looked for, within a minute.
    Column("looked_at", Moment, nullable=False),
    Column("paused_at", Moment),
    Column("paused_by", String(128)),
    Column("deleted_at", Moment),
    Column("deleted_by", String(128)),
    Index(
        "schedule_name",
        "name",
        unique=True,
        postgresql_where=text("deleted_at IS NULL"),
        sqlite_where=text("deleted_at IS NULL"),
    ),
)

# Nights that somebody has taken out, by their local day.
schedule_skip = Table(
    "schedule_skip",
    metadata,
    Column("schedule_id", _UUID, ForeignKey("schedule.id", ondelete="CASCADE"), primary_key=True),
    Column("day", String(10), primary_key=True),
    Column("made_by", String(128), nullable=False),
    Column("made_at", Moment, nullable=False),
)

# What became of an occurrence in one zone. One that is still to come has no row.
schedule_night = Table(
    "schedule_night",
    metadata,
    Column("id", _UUID, primary_key=True),
    Column("schedule_id", _UUID, ForeignKey("schedule.id"), nullable=False),
    # A local day, or `run` and the moment at which a person has said so.
    Column("occurrence", String(40), nullable=False),
    Column("zone", String(256), nullable=False),
    Column("state", String(16), nullable=False),
    Column("starts_at", Moment, nullable=False),
    Column("ends_at", Moment, nullable=False),
    Column("back_by", Moment, nullable=False),
    Column("batch_id", _UUID),
    Column("words", Text),
    Column("made_at", Moment, nullable=False),
    Column("ended_at", Moment),
    Column("report", JSON),
    UniqueConstraint("schedule_id", "occurrence", "zone", name="schedule_night_key"),
    Index("schedule_night_time", "ends_at"),
    Index("schedule_night_state", "state"),
)

# Its key makes one command of each occurrence for each client, whatever happens: also if the client moves to another
# zone in between.
schedule_member = Table(
    "schedule_member",
    metadata,
    Column("schedule_id", _UUID, ForeignKey("schedule.id"), primary_key=True),
    Column("occurrence", String(40), primary_key=True),
    Column("client_uuid", _UUID, primary_key=True),
    Column("night_id", _UUID, ForeignKey("schedule_night.id", ondelete="CASCADE"), nullable=False),
    # Null: it was left out, and `skipped` says why.
    Column("command_id", _UUID),
    Column("skipped", Text),
    Index("schedule_member_night", "night_id"),
)

# What is done about a client that did not come back from its reboot; the record of `recovery`.
recovery = Table(
    "recovery",
    metadata,
    Column("id", _SEQUENCE, primary_key=True),
    Column("client_uuid", _UUID, nullable=False),
    Column("command_id", _UUID, nullable=False),
    Column("state", String(32), nullable=False),
    Column("began_at", Moment, nullable=False),
    Column("since", Moment, nullable=False),
    Column("due_at", Moment),
    Column("ended_at", Moment),
    Column("steps_left", JSON, nullable=False),
    Column("tried", JSON, nullable=False),
    Column("boots_within_s", Integer, nullable=False),
    Column("asks_from", Moment, nullable=False),
    Column("cycle_id", BigInteger),
    Column("words", Text, nullable=False),
    # What can be pasted into a ticket, once a person is needed.
    Column("ticket", Text),
    # The bytes of the command, to ask with.
    Column("topic", Text),
    Column("payload", LargeBinary),
    Column("properties", JSON),
    Index("recovery_client", "client_uuid", "id"),
    Index(
        "recovery_open",
        "client_uuid",
        unique=True,
        postgresql_where=text("ended_at IS NULL"),
        sqlite_where=text("ended_at IS NULL"),
    ),
    sqlite_autoincrement=True,
)

# --- Rollouts

# A batch in stages, with a brake. Its present state is the record of the module `rollout`.
rollout = Table(
    "rollout",
    metadata,
    Column("id", _UUID, primary_key=True),
    Column("action", String(16), nullable=False),
    Column("reason", Text),
    Column("created_at", Moment, nullable=False),
    Column("created_by", String(128), nullable=False),
    Column("via", String(32), nullable=False),
    Column("address", String(64)),
    Column("may_shut_down", Boolean, nullable=False),
    Column("someone_is_there", Boolean, nullable=False),
    Column("preview_hash", String(64), nullable=False),
    Column("idempotency_key", String(128)),
    Column("request_digest", String(64)),
    # What each client gets when it has completed, by key.
    Column("labels", JSON, nullable=False),
    # As it was written: what cannot be read stops.
    Column("threshold", String(32), nullable=False),
    Column("minimum", Integer, nullable=False),
    Column("settle_s", Integer, nullable=False),
    Column("pause_s", Integer, nullable=False),
    # How long a client may wait for what holds it, from the beginning of its stage on.
    Column("wait_s", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("stage", Integer, nullable=False),
    Column("run", Integer, nullable=False),
    Column("counts_from", Integer, nullable=False),
    Column("due_at", Moment),
    Column("is_asking", Boolean, nullable=False),
    Column("recovery_off", Boolean, nullable=False),
    Column("why", Text),
    Column("changed_by", String(128)),
    Column("changed_at", Moment),
    Column("ended_at", Moment),
    UniqueConstraint("created_by", "idempotency_key", name="rollout_key"),
    Index("rollout_created", "created_at", "id"),
    Index("rollout_state", "state"),
)

_ROLLOUT = "rollout.id"

rollout_stage = Table(
    "rollout_stage",
    metadata,
    Column("rollout_id", _UUID, ForeignKey(_ROLLOUT, ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("name", Text, nullable=False),
    Column("began_at", Moment),
    Column("ended_at", Moment),
)

# The commands that were made for a stage. The key is why a process that is killed makes none of them twice.
rollout_batch = Table(
    "rollout_batch",
    metadata,
    Column("rollout_id", _UUID, ForeignKey(_ROLLOUT, ondelete="CASCADE"), primary_key=True),
    Column("stage", Integer, primary_key=True),
    Column("run", Integer, primary_key=True),
    Column("batch_id", _UUID, nullable=False),
)

rollout_member = Table(
    "rollout_member",
    metadata,
    Column("rollout_id", _UUID, ForeignKey(_ROLLOUT, ondelete="CASCADE"), primary_key=True),
    Column("client_uuid", _UUID, primary_key=True),
    Column("stage", Integer, nullable=False),
    Column("position", Integer, nullable=False),
    # The one on its way; null before it, and again if it was taken back before it was sent.
    Column("command_id", _UUID),
    # As it was when it was first seen, what it is for the brake, and in which run that was. Late truth changes nothing.
    Column("verdict", String(24)),
    Column("counted", String(16)),
    Column("counted_at", Moment),
    Column("run", Integer),
    # The labels that the rollout has changed, as they were; null where it has not.
    Column("labels_before", JSON(none_as_null=True)),
    Index("rollout_member_client", "client_uuid"),
    Index("rollout_member_command", "command_id", unique=True),
    Index(
        "rollout_member_awaited",
        "rollout_id",
        postgresql_where=text("command_id IS NOT NULL AND verdict IS NULL"),
        sqlite_where=text("command_id IS NOT NULL AND verdict IS NULL"),
    ),
)

user = Table(
    "user_account",  # `user` is a word of PostgreSQL's
    metadata,
    Column("name", String(64), primary_key=True),
    Column("role", String(16), nullable=False),
    Column("may_shut_down", Boolean, nullable=False, server_default=text("false")),
    Column("password_hash", Text),
    Column("created_at", Moment, nullable=False),
    Column("disabled_at", Moment),
    # By which an OpenID provider knows somebody, behind its own address: a name there may change, or get another owner.
    Column("subject", Text),
    Index("user_subject", "subject", unique=True),
)

token = Table(
    "token",
    metadata,
    Column("id", _UUID, primary_key=True),
    Column("name", String(128), nullable=False),
    Column("user_name", String(64), ForeignKey("user_account.name"), nullable=False),
    Column("role", String(16), nullable=False),
    Column("may_shut_down", Boolean, nullable=False, server_default=text("false")),
    # SHA-256: the token itself is 256 random bits, so nobody can guess it from its digest.
    Column("digest", String(64), nullable=False, unique=True),
    Column("created_at", Moment, nullable=False),
    Column("expires_at", Moment),
    Column("used_at", Moment),
    Column("revoked_at", Moment),
)

# A search of the fleet that its user keeps under a name. What is null is not searched for.
saved_view = Table(
    "saved_view",
    metadata,
    Column("user_name", String(64), ForeignKey("user_account.name"), primary_key=True),
    Column("name", String(128), primary_key=True),
    Column("condition", String(16)),
    Column("selector", Text),
    Column("text", Text),
)

audit = Table(
    "audit",
    metadata,
    Column("seq", _SEQUENCE, primary_key=True),
    Column("at", Moment, nullable=False),
    Column("who", String(128), nullable=False),
    Column("via", String(32), nullable=False),
    Column("address", String(64)),
    Column("what", String(64), nullable=False),
    Column("target", Text),
    Column("outcome", String(32), nullable=False),
    Column("content", JSON),
    Index("audit_at", "at"),
)

lease = Table(
    "lease",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("holder", String(128)),
    Column("epoch", Integer, nullable=False),
    Column("ends_at", Moment, nullable=False),
    # Since when its holder hears the broker; null while it does not.
    Column("listening_since", Moment),
    # Since when nobody hears it; null while somebody does.
    Column("deaf_since", Moment),
)

# One row for each migration that was run, by which version of ours.
migration = Table(
    "migration",
    metadata,
    Column("revision", String(32), primary_key=True),
    Column("version", String(32), nullable=False),
    Column("at", Moment, nullable=False),
)

# Which port feeds a client: what `power.port` says of it.
power_port = Table(
    "power_port",
    metadata,
    Column("client_uuid", _UUID, ForeignKey("client.uuid", ondelete="CASCADE"), primary_key=True),
    Column("switch", String(128), nullable=False),
    Column("address", String(270)),
    Column("port", String(64), nullable=False),
    Column("profile", String(64)),
    Column("backend", String(16), nullable=False),
    # `Port.place`: however it is written, a port feeds one client.
    Column("place", String(400), nullable=False, unique=True),
    Column("changed_at", Moment, nullable=False),
    Column("changed_by", String(128), nullable=False),
)

# What `power.cycle` is about. A row in `owed` or `off` says: this port has to be on again.
power_cycle = Table(
    "power_cycle",
    metadata,
    Column("id", _SEQUENCE, primary_key=True),
    # No foreign key, and a copy of the port: the one that went off is the one that goes on, whatever is changed.
    Column("client_uuid", _UUID, nullable=False),
    Column("switch", String(128), nullable=False),
    Column("address", String(270)),
    Column("port", String(64), nullable=False),
    Column("profile", String(64)),
    Column("backend", String(16), nullable=False),
    Column("requested_at", Moment, nullable=False),
    Column("requested_by", String(128), nullable=False),
    Column("why", Text),
    Column("is_online_anyway", Boolean, nullable=False, server_default=text("false")),
    Column("state", String(16), nullable=False),
    Column("owed_at", Moment),
    Column("must_be_on_by", Moment),
    Column("off_at", Moment),
    Column("on_at", Moment),
    Column("ended_at", Moment),
    # How often it could not be switched on again, and what was said last.
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("words", Text),
    # When people were told that the port is held off.
    Column("told_at", Moment),
    Index("power_cycle_client", "client_uuid", "id"),
    Index(
        "power_cycle_open",
        "client_uuid",
        unique=True,
        postgresql_where=text("ended_at IS NULL"),
        sqlite_where=text("ended_at IS NULL"),
    ),
    sqlite_autoincrement=True,
)
