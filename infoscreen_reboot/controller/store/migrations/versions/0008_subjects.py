"""Users whom an OpenID provider knows."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("user_account", sa.Column("subject", sa.Text(), nullable=True))
    op.create_index("user_subject", "user_account", ["subject"], unique=True)
