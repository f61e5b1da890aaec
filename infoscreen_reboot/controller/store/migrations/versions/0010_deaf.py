"""Since when nobody hears the broker."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.add_column("lease", sa.Column("deaf_since", sa.BigInteger(), nullable=True))
