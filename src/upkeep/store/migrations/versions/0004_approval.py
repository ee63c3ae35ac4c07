"""A person's word that a rollout may take a machine."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("tasks", sa.Column("approved", sa.Integer, nullable=False, server_default="0"))
