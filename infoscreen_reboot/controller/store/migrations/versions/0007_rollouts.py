"""Rollouts: batches in stages, with a brake."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "rollout",
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("action", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.String(length=128), nullable=False),
        sa.Column("via", sa.String(length=32), nullable=False),
        sa.Column("address", sa.String(length=64), nullable=True),
        sa.Column("may_shut_down", sa.Boolean(), nullable=False),
        sa.Column("someone_is_there", sa.Boolean(), nullable=False),
        sa.Column("preview_hash", sa.String(length=64), nullable=False),
        sa.Column("idempotency_key", sa.String(length=128), nullable=True),
        sa.Column("request_digest", sa.String(length=64), nullable=True),
        sa.Column("labels", sa.JSON(), nullable=False),
        sa.Column("threshold", sa.String(length=32), nullable=False),
        sa.Column("minimum", sa.Integer(), nullable=False),
        sa.Column("settle_s", sa.Integer(), nullable=False),
        sa.Column("pause_s", sa.Integer(), nullable=False),
        sa.Column("wait_s", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("stage", sa.Integer(), nullable=False),
        sa.Column("run", sa.Integer(), nullable=False),
        sa.Column("counts_from", sa.Integer(), nullable=False),
        sa.Column("due_at", sa.BigInteger(), nullable=True),
        sa.Column("is_asking", sa.Boolean(), nullable=False),
        sa.Column("recovery_off", sa.Boolean(), nullable=False),
        sa.Column("why", sa.Text(), nullable=True),
        sa.Column("changed_by", sa.String(length=128), nullable=True),
        sa.Column("changed_at", sa.BigInteger(), nullable=True),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("created_by", "idempotency_key", name="rollout_key"),
    )
    op.create_index("rollout_created", "rollout", ["created_at", "id"], unique=False)
    op.create_index("rollout_state", "rollout", ["state"], unique=False)
    op.create_table(
        "rollout_stage",
        sa.Column("rollout_id", sa.String(length=36), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("began_at", sa.BigInteger(), nullable=True),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["rollout_id"], ["rollout.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("rollout_id", "number"),
    )
    op.create_table(
        "rollout_batch",
        sa.Column("rollout_id", sa.String(length=36), nullable=False),
        sa.Column("stage", sa.Integer(), nullable=False),
        sa.Column("run", sa.Integer(), nullable=False),
        sa.Column("batch_id", sa.String(length=36), nullable=False),
        sa.ForeignKeyConstraint(["rollout_id"], ["rollout.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("rollout_id", "stage", "run"),
    )
    op.create_table(
        "rollout_member",
        sa.Column("rollout_id", sa.String(length=36), nullable=False),
        sa.Column("client_uuid", sa.String(length=36), nullable=False),
        sa.Column("stage", sa.Integer(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("command_id", sa.String(length=36), nullable=True),
        sa.Column("verdict", sa.String(length=24), nullable=True),
        sa.Column("counted", sa.String(length=16), nullable=True),
        sa.Column("counted_at", sa.BigInteger(), nullable=True),
        sa.Column("run", sa.Integer(), nullable=True),
        sa.Column("labels_before", sa.JSON(), nullable=True),
        sa.ForeignKeyConstraint(["rollout_id"], ["rollout.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("rollout_id", "client_uuid"),
    )
    op.create_index("rollout_member_client", "rollout_member", ["client_uuid"], unique=False)
    op.create_index("rollout_member_command", "rollout_member", ["command_id"], unique=True)
    op.create_index(
        "rollout_member_awaited",
        "rollout_member",
        ["rollout_id"],
        unique=False,
        postgresql_where=sa.text("command_id IS NOT NULL AND verdict IS NULL"),
        sqlite_where=sa.text("command_id IS NOT NULL AND verdict IS NULL"),
    )
