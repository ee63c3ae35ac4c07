"""Repairs of machines that stay unhealthy."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    for column in (
        sa.Column("repair_action", sa.String, nullable=False, server_default=""),
        sa.Column("repair_grace_s", sa.Integer, nullable=False, server_default="600"),
        sa.Column("repairs_suspended_at", sa.BigInteger),
        sa.Column("repairs_resumed_at", sa.BigInteger),
    ):
        op.add_column("groups", column)
