"""A parked group stays parked, whatever marks it."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("groups", sa.Column("parked_until", sa.BigInteger, nullable=True))
    condition = sa.text("parked_until IS NOT NULL")
    op.create_index(
        "groups_parked",
        "groups",
        ["parked_until"],
        sqlite_where=condition,
        postgresql_where=condition,
    )
