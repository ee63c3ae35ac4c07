"""Alarms of groups, and when a rollout's first work began."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.add_column("rollouts", sa.Column("begun_at", sa.BigInteger))
    op.create_table(
        "alarms",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("group_id", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("query", sa.Text, nullable=False),
        sa.Column("action", sa.String, nullable=False, server_default=""),
        sa.Column("state", sa.String, nullable=False, server_default="unknown"),
        sa.Column("since", sa.BigInteger, nullable=False),
        sa.Column("fired_at", sa.BigInteger),
        sa.Column("quiet_at", sa.BigInteger),
        sa.Column("detail", sa.Text, nullable=False, server_default=""),
        sa.UniqueConstraint("group_id", "name"),
    )
