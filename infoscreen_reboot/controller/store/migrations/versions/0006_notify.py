"""Messages to people, to whom they go, and freezes out of a calendar."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    sequence = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.add_column("notice", sa.Column("settled_at", sa.BigInteger(), nullable=True))
    op.add_column("notice", sa.Column("message_id", sequence, nullable=True))
    pending = sa.text("settled_at IS NULL")
    op.create_index("notice_pending", "notice", ["id"], postgresql_where=pending, sqlite_where=pending)
    op.create_table(
        "message",
        sa.Column("id", sequence, nullable=False),
        sa.Column("made_at", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("is_loud", sa.Boolean(), nullable=False),
        sa.Column("content", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("message_kind", "message", ["kind", "made_at"], unique=False)
    op.create_table(
        "delivery",
        sa.Column("message_id", sequence, nullable=False),
        sa.Column("target", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("next_at", sa.BigInteger(), nullable=True),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("words", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["message_id"], ["message.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("message_id", "target"),
    )
    is_due = sa.text("next_at IS NOT NULL")
    op.create_index("delivery_next", "delivery", ["next_at"], postgresql_where=is_due, sqlite_where=is_due)
    op.create_table(
        "calendar",
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("file", sa.Text(), nullable=False),
        sa.Column("read_at", sa.BigInteger(), nullable=True),
        sa.Column("events", sa.Integer(), nullable=True),
        sa.Column("fault", sa.Text(), nullable=True),
        sa.Column("fault_since", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("name"),
    )
    op.add_column("freeze", sa.Column("event", sa.String(length=64), nullable=True))
    op.add_column("freeze", sa.Column("begins_at", sa.BigInteger(), nullable=True))
    op.create_index("freeze_event", "freeze", ["event"], unique=True)
