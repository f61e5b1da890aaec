"""Ports that feed clients, and their power cycles. Whether a client can be woken is asked from its port."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "power_port",
        sa.Column("client_uuid", sa.String(length=36), nullable=False),
        sa.Column("switch", sa.String(length=128), nullable=False),
        sa.Column("address", sa.String(length=270), nullable=True),
        sa.Column("port", sa.String(length=64), nullable=False),
        sa.Column("profile", sa.String(length=64), nullable=True),
        sa.Column("backend", sa.String(length=16), nullable=False),
        sa.Column("place", sa.String(length=400), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.Column("changed_by", sa.String(length=128), nullable=False),
        sa.ForeignKeyConstraint(["client_uuid"], ["client.uuid"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("client_uuid"),
        sa.UniqueConstraint("place"),
    )
    op.create_table(
        "power_cycle",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("client_uuid", sa.String(length=36), nullable=False),
        sa.Column("switch", sa.String(length=128), nullable=False),
        sa.Column("address", sa.String(length=270), nullable=True),
        sa.Column("port", sa.String(length=64), nullable=False),
        sa.Column("profile", sa.String(length=64), nullable=True),
        sa.Column("backend", sa.String(length=16), nullable=False),
        sa.Column("requested_at", sa.BigInteger(), nullable=False),
        sa.Column("requested_by", sa.String(length=128), nullable=False),
        sa.Column("why", sa.Text(), nullable=True),
        sa.Column("is_online_anyway", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("owed_at", sa.BigInteger(), nullable=True),
        sa.Column("must_be_on_by", sa.BigInteger(), nullable=True),
        sa.Column("off_at", sa.BigInteger(), nullable=True),
        sa.Column("on_at", sa.BigInteger(), nullable=True),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("attempts", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("words", sa.Text(), nullable=True),
        sa.Column("told_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sqlite_autoincrement=True,
    )
    op.create_index("power_cycle_client", "power_cycle", ["client_uuid", "id"], unique=False)
    op.create_index(
        "power_cycle_open",
        "power_cycle",
        ["client_uuid"],
        unique=True,
        postgresql_where=sa.text("ended_at IS NULL"),
        sqlite_where=sa.text("ended_at IS NULL"),
    )
    op.drop_column("client", "can_be_woken")
