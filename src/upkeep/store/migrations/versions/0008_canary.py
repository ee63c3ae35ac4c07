"""Rollouts whose canary somebody has promoted."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("rollouts", sa.Column("promoted", sa.Integer, nullable=False, server_default="0"))
