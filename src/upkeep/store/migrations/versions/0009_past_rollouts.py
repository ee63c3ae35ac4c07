"""A plan finds the newest ended rollouts of each kind by an index."""

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.create_index(
        "rollouts_past", "rollouts", ["group_id", "system", "verb", "guilty", "ended_at"]
    )
