"""Versions that no machine goes past without having run them."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.add_column(
        "image_versions", sa.Column("floor", sa.Integer, nullable=False, server_default="0")
    )
