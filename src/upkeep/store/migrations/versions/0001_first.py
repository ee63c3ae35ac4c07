"""The first schema, written out: it stays as it is, whatever tables.py becomes."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    _make_groups()
    _make_machines()
    _make_rollouts()
    _make_actions()
    _make_budgets()
    _make_holds()
    _make_images()
    _make_access()


def _text(name: str, default: str = "") -> sa.Column[str]:
    return sa.Column(name, sa.String, nullable=False, server_default=default)


def _long_text(name: str, default: str = "") -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, server_default=default)


def _int(name: str, default: int = 0) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=False, server_default=str(default))


def _moment(name: str, *, nullable: bool = True) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=nullable)


def _partial_index(name: str, table: str, columns: list[str], where: str) -> None:
    condition = sa.text(where)
    op.create_index(name, table, columns, sqlite_where=condition, postgresql_where=condition)


def _make_groups() -> None:
    op.create_table(
        "groups",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False, unique=True),
        _text("scope", "default"),
        _text("region", "local"),
        _text("kind", "scale_set"),
        _int("capacity"),
        _long_text("zones", "[]"),
        _int("update_domains", 1),
        _int("fault_domains", 1),
        _text("image_name"),
        _int("auto_upgrade", 1),
        _int("paused"),
        _long_text("policy", "{}"),
        _text("baked"),
        _int("next_ordinal"),
        _int("next_rollout", 1),
        _int("quota"),
        _text("platform"),
        _long_text("probe", "{}"),
        _text("health_source", "outside"),
        sa.Column("user_data", sa.LargeBinary, nullable=False, server_default=""),
        _long_text("scripts", "[]"),
        _int("memory_mib", 512),
        _int("cpus", 1),
        _text("network"),
        _int("marks"),
        _int("fence"),
        _moment("wake_at"),
        _moment("planned_at"),
        _moment("created_at", nullable=False),
        _moment("delete_requested_at"),
        _moment("deleted_at"),
    )
    op.create_index("groups_wake", "groups", ["wake_at"])


def _make_machines() -> None:
    op.create_table(
        "machines",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("group_id", sa.String, nullable=False),
        sa.Column("name", sa.String, nullable=False, unique=True),
        _text("zone"),
        _int("update_domain"),
        _int("fault_domain"),
        _text("host"),
        _text("lifecycle"),
        _text("image"),
        _text("kept"),
        _int("boots"),
        _text("health"),
        _moment("health_since", nullable=False),
        _text("health_detail"),
        _int("powered_off"),
        _moment("lost_at"),
        _moment("back_at"),
        _moment("worked_at"),
        _int("protected"),
        _int("opted_out"),
        sa.Column("phase", sa.Integer, nullable=True),
        _int("skip"),
        _int("down"),
        _int("in_work"),
        _text("address"),
        _text("uuid"),
        _moment("watch_from", nullable=False),
        _int("fence"),
        _moment("created_at", nullable=False),
    )
    _partial_index("machines_down", "machines", ["down"], "down = 1")
    op.create_index("machines_group", "machines", ["group_id"])
    op.create_index("machines_host", "machines", ["host"])
    _partial_index("machines_lost", "machines", ["lost_at"], "lost_at IS NOT NULL")
    op.create_index("machines_zone", "machines", ["zone"])
    op.create_table(
        "agents",
        sa.Column("machine_id", sa.String, primary_key=True),
        _text("secret_hash"),
        _text("uuid"),
        _text("boot_id"),
        _text("agent_version"),
        _text("image_name"),
        _text("image_version"),
        _text("os"),
        _text("first_boot"),
        _text("first_boot_detail"),
        _text("reboot_required"),
        _text("busy"),
        _text("conflict"),
        _int("locked"),
        _moment("enrolled_at"),
        _moment("seen_at"),
    )


def _make_rollouts() -> None:
    op.create_table(
        "rollouts",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("group_id", sa.String, nullable=False),
        _text("system"),
        _text("verb"),
        _text("target"),
        _long_text("policy", "{}"),
        _int("size"),
        _text("state"),
        _text("started_by"),
        _moment("started_at", nullable=False),
        _moment("ended_at"),
        _int("batch"),
        _moment("batch_closed_at"),
        _int("paused"),
        _int("cancel_requested"),
        _int("force"),
        _int("guilty"),
        _text("code"),
        _long_text("evidence"),
    )
    op.create_index("rollouts_group", "rollouts", ["group_id", "ended_at"])
    op.create_table(
        "tasks",
        sa.Column("rollout_id", sa.String, nullable=False),
        sa.Column("machine_id", sa.String, nullable=False),
        _text("state"),
        _moment("state_since", nullable=False),
        _moment("clock_from", nullable=False),
        _int("batch"),
        _moment("not_before"),
        _text("previous"),
        _int("boots_before"),
        _int("repair"),
        _int("attempt"),
        _text("failure"),
        _int("healed"),
        _int("surge"),
        _text("stand_in"),
        _long_text("detail"),
        sa.PrimaryKeyConstraint("rollout_id", "machine_id"),
    )
    op.create_index("tasks_machine", "tasks", ["machine_id"])


def _make_actions() -> None:
    op.create_table(
        "actions",
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("group_id", sa.String, nullable=False),
        sa.Column("machine_id", sa.String, nullable=False),
        sa.Column("rollout_id", sa.String, nullable=False),
        _text("verb"),
        _text("version"),
        _text("state"),
        _moment("ready_at", nullable=False),
        _moment("lease_until"),
        _text("owner"),
        _int("fence"),
        _int("attempts"),
        _text("kind"),
        _long_text("detail"),
        _moment("created_at", nullable=False),
        _moment("started_at"),
        _moment("ended_at"),
    )
    _partial_index("actions_leased", "actions", ["lease_until"], "state = 'leased'")
    op.create_index("actions_machine", "actions", ["machine_id"])
    _partial_index("actions_ready", "actions", ["ready_at"], "state = 'ready'")
    op.create_index("actions_rollout", "actions", ["rollout_id"])


def _make_budgets() -> None:
    op.create_table(
        "budgets",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False, unique=True),
        _text("group_id"),
        _long_text("selector", "{}"),
        sa.Column("max_down", sa.Integer, nullable=True),
        sa.Column("min_available", sa.Integer, nullable=True),
        _int("percent"),
        _int("per_zone"),
        _int("rate"),
        sa.Column("rate_period_us", sa.BigInteger, nullable=False, server_default="0"),
        _int("version"),
        _moment("created_at", nullable=False),
    )
    op.create_index("budgets_group", "budgets", ["group_id"])
    op.create_table(
        "claims",
        sa.Column("budget_id", sa.String, nullable=False),
        sa.Column("machine_id", sa.String, nullable=False),
        sa.Column("rollout_id", sa.String, nullable=False),
        _moment("taken_at", nullable=False),
        _int("overdraft"),
        sa.PrimaryKeyConstraint("budget_id", "machine_id"),
    )
    op.create_index("claims_machine", "claims", ["machine_id"])
    op.create_table(
        "starts",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("budget_id", sa.String, nullable=False),
        _moment("at", nullable=False),
    )
    op.create_index("starts_budget", "starts", ["budget_id", "at"])


def _make_holds() -> None:
    op.create_table(
        "holds",
        sa.Column("machine_id", sa.String, nullable=False),
        sa.Column("system", sa.String, nullable=False),
        sa.Column("group_id", sa.String, nullable=False),
        _text("reason"),
        _moment("since", nullable=False),
        _moment("until"),
        _long_text("lifted_by"),
        _text("budget_id"),
        _int("priority"),
        sa.PrimaryKeyConstraint("machine_id", "system"),
    )
    op.create_index("holds_budget", "holds", ["budget_id", "priority", "since"])
    op.create_index("holds_group", "holds", ["group_id"])
    op.create_table(
        "calls",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("group_id", sa.String, nullable=False),
        _text("verb"),
        _long_text("machines", "[]"),
        _text("target"),
        _int("force"),
        _text("actor"),
        _text("state", "open"),
        _long_text("refusal"),
        _moment("created_at", nullable=False),
    )
    op.create_index("calls_group", "calls", ["group_id", "state"])
    op.create_table(
        "blackouts",
        sa.Column("id", sa.String, primary_key=True),
        _text("name"),
        _text("group_id"),
        _moment("opens", nullable=False),
        _moment("closes", nullable=False),
    )
    op.create_table(
        "story",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("group_id", sa.String, nullable=False),
        _moment("at", nullable=False),
        sa.Column("line", sa.Text, nullable=False),
    )
    op.create_index("story_group", "story", ["group_id", "id"])


def _make_images() -> None:
    op.create_table(
        "images",
        sa.Column("name", sa.String, primary_key=True),
        _moment("created_at", nullable=False),
    )
    op.create_table(
        "image_versions",
        sa.Column("image_name", sa.String, nullable=False),
        sa.Column("version", sa.String, nullable=False),
        _text("format"),
        _text("sha256"),
        sa.Column("size", sa.BigInteger, nullable=False, server_default="0"),
        _int("excluded"),
        _text("note"),
        _moment("published_at", nullable=False),
        sa.PrimaryKeyConstraint("image_name", "version", "format"),
    )
    op.create_table(
        "image_replicas",
        sa.Column("image_name", sa.String, nullable=False),
        sa.Column("version", sa.String, nullable=False),
        sa.Column("region", sa.String, nullable=False),
        _text("state"),
        _long_text("note"),
        _int("excluded"),
        sa.PrimaryKeyConstraint("image_name", "version", "region"),
    )


def _make_access() -> None:
    op.create_table(
        "tokens",
        sa.Column("id", sa.String, primary_key=True),
        _text("name"),
        _text("secret_hash"),
        _text("role"),
        _text("scope"),
        _moment("created_at", nullable=False),
        _moment("expires_at"),
        _moment("revoked_at"),
        sa.UniqueConstraint("name"),
    )
    op.create_table(
        "enrol_tokens",
        sa.Column("secret_hash", sa.String, primary_key=True),
        _text("machine_id"),
        _text("group_id"),
        _moment("expires_at", nullable=False),
        _moment("used_at"),
        _text("used_by_uuid"),
    )
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        _moment("at", nullable=False),
        _text("actor"),
        _text("source"),
        _text("verb"),
        _text("subject"),
        _long_text("detail"),
        _int("status"),
    )
    op.create_index("audit_at", "audit", ["at"])
    op.create_table(
        "settings",
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
