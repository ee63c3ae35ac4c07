"""What rollouts ask at their lifecycle hooks, and the answers."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "hook_events",
        sa.Column("rollout_id", sa.String, nullable=False),
        sa.Column("serial", sa.Integer, nullable=False, server_default="0"),
        sa.Column("group_id", sa.String, nullable=False),
        sa.Column("kind", sa.String, nullable=False, server_default=""),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("wait_until", sa.BigInteger, nullable=False),
        sa.Column("approves", sa.Integer, nullable=False, server_default="1"),
        sa.Column("closed", sa.Integer, nullable=False, server_default="0"),
        sa.PrimaryKeyConstraint("rollout_id", "serial"),
    )
    op.create_index("hook_events_group", "hook_events", ["group_id"])
    op.create_table(
        "hook_answers",
        sa.Column("rollout_id", sa.String, nullable=False),
        sa.Column("serial", sa.Integer, nullable=False, server_default="0"),
        sa.Column("machine_id", sa.String, nullable=False),
        sa.Column("answer", sa.String, nullable=False, server_default="waiting"),
        sa.PrimaryKeyConstraint("rollout_id", "serial", "machine_id"),
    )
