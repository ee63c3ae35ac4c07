"""Schedules of windows, and the groups that work in them."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "schedules",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False, unique=True),
        sa.Column("scope", sa.String, nullable=False, server_default="default"),
        sa.Column("region", sa.String, nullable=False, server_default="local"),
        sa.Column("starts", sa.String, nullable=False, server_default=""),
        sa.Column("expires", sa.String, nullable=False, server_default=""),
        sa.Column("zone", sa.String, nullable=False, server_default="UTC"),
        sa.Column("length_s", sa.Integer, nullable=False, server_default="0"),
        sa.Column("recur_every", sa.String, nullable=False, server_default=""),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "assignments",
        sa.Column("schedule_id", sa.String, nullable=False),
        sa.Column("group_id", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False, server_default=""),
        sa.PrimaryKeyConstraint("schedule_id", "group_id"),
    )
    op.create_index("assignments_group", "assignments", ["group_id"])
