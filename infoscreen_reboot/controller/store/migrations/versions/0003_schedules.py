"""Schedules: rules, the nights that somebody has taken out, what became of each night, and its members."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_UUID = sa.String(length=36)


def upgrade() -> None:
    op.create_table(
        "schedule",
        sa.Column("id", _UUID, nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("selector", sa.Text(), nullable=False),
        sa.Column("action", sa.String(length=16), nullable=False),
        sa.Column("rule", sa.String(length=256), nullable=False),
        sa.Column("start", sa.String(length=5), nullable=False),
        sa.Column("zone", sa.String(length=64), nullable=True),
        sa.Column("window_min", sa.Integer(), nullable=False),
        sa.Column("spread_min", sa.Integer(), nullable=False),
        sa.Column("back_by_min", sa.Integer(), nullable=False),
        sa.Column("anchor", sa.String(length=10), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.Column("changed_by", sa.String(length=128), nullable=False),
        sa.Column("version", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("looked_at", sa.BigInteger(), nullable=False),
        sa.Column("paused_at", sa.BigInteger(), nullable=True),
        sa.Column("paused_by", sa.String(length=128), nullable=True),
        sa.Column("deleted_at", sa.BigInteger(), nullable=True),
        sa.Column("deleted_by", sa.String(length=128), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    living = sa.text("deleted_at IS NULL")
    op.create_index("schedule_name", "schedule", ["name"], unique=True, postgresql_where=living, sqlite_where=living)
    op.create_table(
        "schedule_skip",
        sa.Column("schedule_id", _UUID, nullable=False),
        sa.Column("day", sa.String(length=10), nullable=False),
        sa.Column("made_by", sa.String(length=128), nullable=False),
        sa.Column("made_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["schedule_id"], ["schedule.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("schedule_id", "day"),
    )
    op.create_table(
        "schedule_night",
        sa.Column("id", _UUID, nullable=False),
        sa.Column("schedule_id", _UUID, nullable=False),
        sa.Column("occurrence", sa.String(length=40), nullable=False),
        sa.Column("zone", sa.String(length=256), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("starts_at", sa.BigInteger(), nullable=False),
        sa.Column("ends_at", sa.BigInteger(), nullable=False),
        sa.Column("back_by", sa.BigInteger(), nullable=False),
        sa.Column("batch_id", _UUID, nullable=True),
        sa.Column("words", sa.Text(), nullable=True),
        sa.Column("made_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("report", sa.JSON(), nullable=True),
        sa.ForeignKeyConstraint(["schedule_id"], ["schedule.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("schedule_id", "occurrence", "zone", name="schedule_night_key"),
    )
    op.create_index("schedule_night_time", "schedule_night", ["ends_at"], unique=False)
    op.create_index("schedule_night_state", "schedule_night", ["state"], unique=False)
    op.create_table(
        "schedule_member",
        sa.Column("schedule_id", _UUID, nullable=False),
        sa.Column("occurrence", sa.String(length=40), nullable=False),
        sa.Column("client_uuid", _UUID, nullable=False),
        sa.Column("night_id", _UUID, nullable=False),
        sa.Column("command_id", _UUID, nullable=True),
        sa.Column("skipped", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["schedule_id"], ["schedule.id"]),
        sa.ForeignKeyConstraint(["night_id"], ["schedule_night.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("schedule_id", "occurrence", "client_uuid"),
    )
    op.create_index("schedule_member_night", "schedule_member", ["night_id"], unique=False)
