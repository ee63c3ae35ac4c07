"""What OS disks were told at their first boot has a name, and reaches machines in rollouts."""

import sqlalchemy as sa
from alembic import op

from upkeep.store.machine_models import digest_of

revision = "0012"
down_revision = "0011"


def _text(name: str, default: str = "") -> sa.Column[str]:
    return sa.Column(name, sa.String, nullable=False, server_default=default)


def upgrade() -> None:
    for table, columns in (
        ("groups", (_text("model"), _text("baked_model"), _text("upgrade_mode", "manual"))),
        ("machines", (_text("model"), _text("kept_model"))),
        ("actions", (_text("model"),)),
        ("tasks", (_text("model"), _text("model_before"))),
    ):
        for column in columns:
            op.add_column(table, column)
    models = op.create_table(
        "machine_models",
        sa.Column("group_id", sa.String, nullable=False),
        sa.Column("digest", sa.String, nullable=False),
        sa.Column("user_data", sa.LargeBinary, nullable=False, server_default=""),
        sa.Column("scripts", sa.Text, nullable=False, server_default="[]"),
        sa.Column("set_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("group_id", "digest"),
    )
    groups = sa.table(
        "groups", *(sa.column(n) for n in ("id", "user_data", "scripts", "created_at"))
    )
    groups.append_column(sa.column("model"))
    groups.append_column(sa.column("baked_model"))
    connection = op.get_bind()
    known = connection.execute(
        sa.select(groups.c.id, groups.c.user_data, groups.c.scripts, groups.c.created_at)
    ).all()
    for group in known:
        digest = digest_of(group.user_data, group.scripts)
        user_data = group.user_data or b""
        connection.execute(
            models.insert().values(
                group_id=group.id,
                digest=digest,
                user_data=user_data,
                scripts=group.scripts,
                set_at=group.created_at,
            )
        )
        connection.execute(
            groups.update().where(groups.c.id == group.id).values(model=digest, baked_model=digest)
        )
