"""What Azure's clients wrote is kept; a machine can be protected from scale-in alone."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "arm_documents",
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("document", sa.Text, nullable=False),
    )
    op.add_column(
        "machines",
        sa.Column("scale_in_protected", sa.Integer, nullable=False, server_default="0"),
    )
