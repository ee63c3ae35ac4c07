"""Every table, a block a noun.  Migrations make them; this is what they end at.

Moments are integers: microseconds since 1970 UTC, so both databases compare them alike.  What
the planner reads lives in columns; JSON text is read only by whoever shows it (policies, models
and probes are small and one per group, the exception).
"""

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata = MetaData()


def _text(name: str, default: str = "") -> Column[str]:
    return Column(name, String, nullable=False, server_default=default)


def _int(name: str, default: int = 0) -> Column[int]:
    return Column(name, Integer, nullable=False, server_default=str(default))


def _moment(name: str, *, nullable: bool = True) -> Column[int]:
    return Column(name, BigInteger, nullable=nullable)


groups = Table(
    "groups",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    _text("scope", "default"),
    _text("region", "local"),
    _text("kind", "scale_set"),
    _int("capacity"),
    Column("zones", Text, nullable=False, server_default="[]"),
    _int("update_domains", 1),
    _int("fault_domains", 1),
    _text("image_name"),
    Column("auto_upgrade", Integer, nullable=False, server_default="1"),
    Column("paused", Integer, nullable=False, server_default="0"),
    Column("policy", Text, nullable=False, server_default="{}"),
    _text("baked"),
    # Digests into machine_models; the columns `user_data` and `scripts` are what `model` names.
    _text("model"),
    _text("baked_model"),
    _text("upgrade_mode", "manual"),
    _int("next_ordinal"),
    _int("next_rollout", 1),
    _int("quota"),
    # What is done by itself about machines that stay unhealthy; empty: nothing.
    _text("repair_action"),
    _int("repair_grace_s", 600),
    _moment("repairs_suspended_at"),
    _moment("repairs_resumed_at"),
    # The model machines are made from, and how their health is seen.
    _text("platform"),
    Column("probe", Text, nullable=False, server_default="{}"),
    _text("health_source", "outside"),
    Column("user_data", LargeBinary, nullable=False, server_default=""),
    Column("scripts", Text, nullable=False, server_default="[]"),
    _int("memory_mib", 512),
    _int("cpus", 1),
    _text("network"),
    # The planner's own bookkeeping.
    _int("marks"),
    _int("fence"),
    _moment("wake_at"),
    # Until then it is not planned, whatever marks it: the last plan ended in a mistake of ours.
    _moment("parked_until"),
    _moment("planned_at"),
    _moment("created_at", nullable=False),
    _moment("delete_requested_at"),
    _moment("deleted_at"),
    Index("groups_wake", "wake_at"),
    Index(
        "groups_parked",
        "parked_until",
        sqlite_where=text("parked_until IS NOT NULL"),
        postgresql_where=text("parked_until IS NOT NULL"),
    ),
)

machines = Table(
    "machines",
    metadata,
    Column("id", String, primary_key=True),
    Column("group_id", String, nullable=False),
    Column("name", String, nullable=False, unique=True),
    _text("zone"),
    _int("update_domain"),
    _int("fault_domain"),
    _text("host"),
    _text("lifecycle"),
    _text("image"),
    _text("kept"),
    _text("model"),
    _text("kept_model"),
    _int("boots"),
    _text("health"),
    _moment("health_since", nullable=False),
    _text("health_detail"),
    Column("powered_off", Integer, nullable=False, server_default="0"),
    _moment("lost_at"),
    _moment("back_at"),
    _moment("worked_at"),
    Column("protected", Integer, nullable=False, server_default="0"),
    Column("scale_in_protected", Integer, nullable=False, server_default="0"),
    Column("opted_out", Integer, nullable=False, server_default="0"),
    Column("phase", Integer),
    Column("skip", Integer, nullable=False, server_default="0"),
    # Down by itself or claimed: what budgets count.  Kept by the store with every change.
    Column("down", Integer, nullable=False, server_default="0"),
    Column("in_work", Integer, nullable=False, server_default="0"),
    _text("address"),
    _text("uuid"),
    _moment("watch_from", nullable=False),
    _int("fence"),
    _moment("created_at", nullable=False),
    Index("machines_group", "group_id"),
    Index(
        "machines_down", "down", sqlite_where=text("down = 1"), postgresql_where=text("down = 1")
    ),
    Index(
        "machines_lost",
        "lost_at",
        sqlite_where=text("lost_at IS NOT NULL"),
        postgresql_where=text("lost_at IS NOT NULL"),
    ),
    Index("machines_zone", "zone"),
    Index("machines_host", "host"),
)

# What new OS disks of a group are told: what it is now, and what its machines have from before.
machine_models = Table(
    "machine_models",
    metadata,
    Column("group_id", String, nullable=False),
    Column("digest", String, nullable=False),
    Column("user_data", LargeBinary, nullable=False, server_default=""),
    Column("scripts", Text, nullable=False, server_default="[]"),
    _moment("set_at", nullable=False),
    PrimaryKeyConstraint("group_id", "digest"),
)

agents = Table(
    "agents",
    metadata,
    Column("machine_id", String, primary_key=True),
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
    # Who else uses this identity; `locked`: nobody can tell which is the right one, so neither may.
    _text("conflict"),
    Column("locked", Integer, nullable=False, server_default="0"),
    _moment("enrolled_at"),
    _moment("seen_at"),
)

rollouts = Table(
    "rollouts",
    metadata,
    Column("id", String, primary_key=True),
    Column("group_id", String, nullable=False),
    _text("system"),
    _text("verb"),
    _text("target"),
    Column("policy", Text, nullable=False, server_default="{}"),
    _int("size"),
    _text("state"),
    _text("started_by"),
    _moment("started_at", nullable=False),
    _moment("ended_at"),
    _moment("begun_at"),
    _int("batch"),
    _moment("batch_closed_at"),
    Column("paused", Integer, nullable=False, server_default="0"),
    Column("cancel_requested", Integer, nullable=False, server_default="0"),
    Column("promoted", Integer, nullable=False, server_default="0"),
    Column("force", Integer, nullable=False, server_default="0"),
    Column("guilty", Integer, nullable=False, server_default="0"),
    _text("code"),
    Column("evidence", Text, nullable=False, server_default=""),
    Index("rollouts_group", "group_id", "ended_at"),
    Index("rollouts_past", "group_id", "system", "verb", "guilty", "ended_at"),
)

tasks = Table(
    "tasks",
    metadata,
    Column("rollout_id", String, nullable=False),
    Column("machine_id", String, nullable=False),
    _text("state"),
    _moment("state_since", nullable=False),
    _moment("clock_from", nullable=False),
    _int("batch"),
    _moment("not_before"),
    _text("previous"),
    _int("boots_before"),
    Column("repair", Integer, nullable=False, server_default="0"),
    _int("attempt"),
    _text("failure"),
    Column("healed", Integer, nullable=False, server_default="0"),
    Column("surge", Integer, nullable=False, server_default="0"),
    _text("stand_in"),
    Column("approved", Integer, nullable=False, server_default="0"),
    _text("model"),
    _text("model_before"),
    Column("detail", Text, nullable=False, server_default=""),
    PrimaryKeyConstraint("rollout_id", "machine_id"),
    Index("tasks_machine", "machine_id"),
)

# What a rollout has asked at a lifecycle hook.
hook_events = Table(
    "hook_events",
    metadata,
    Column("rollout_id", String, nullable=False),
    _int("serial"),
    Column("group_id", String, nullable=False),
    _text("kind"),
    _moment("created_at", nullable=False),
    _moment("wait_until", nullable=False),
    Column("approves", Integer, nullable=False, server_default="1"),
    Column("closed", Integer, nullable=False, server_default="0"),
    PrimaryKeyConstraint("rollout_id", "serial"),
    Index("hook_events_group", "group_id"),
)

# By machine; the question about the whole rollout has an empty one.
hook_answers = Table(
    "hook_answers",
    metadata,
    Column("rollout_id", String, nullable=False),
    _int("serial"),
    Column("machine_id", String, nullable=False),
    _text("answer", "waiting"),
    PrimaryKeyConstraint("rollout_id", "serial", "machine_id"),
)

actions = Table(
    "actions",
    metadata,
    Column("key", String, primary_key=True),
    Column("group_id", String, nullable=False),
    Column("machine_id", String, nullable=False),
    Column("rollout_id", String, nullable=False),
    _text("verb"),
    _text("version"),
    _text("model"),
    _text("state"),
    _moment("ready_at", nullable=False),
    _moment("lease_until"),
    _text("owner"),
    _int("fence"),
    _int("attempts"),
    _text("kind"),
    Column("detail", Text, nullable=False, server_default=""),
    _moment("created_at", nullable=False),
    _moment("started_at"),
    _moment("ended_at"),
    Index(
        "actions_ready",
        "ready_at",
        sqlite_where=text("state = 'ready'"),
        postgresql_where=text("state = 'ready'"),
    ),
    Index(
        "actions_leased",
        "lease_until",
        sqlite_where=text("state = 'leased'"),
        postgresql_where=text("state = 'leased'"),
    ),
    Index("actions_rollout", "rollout_id"),
    Index("actions_machine", "machine_id"),
)

budgets = Table(
    "budgets",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    # One group's own budget names it here; others select by the JSON below.
    _text("group_id"),
    Column("selector", Text, nullable=False, server_default="{}"),
    Column("max_down", Integer),
    Column("min_available", Integer),
    Column("percent", Integer, nullable=False, server_default="0"),
    Column("per_zone", Integer, nullable=False, server_default="0"),
    _int("rate"),
    Column("rate_period_us", BigInteger, nullable=False, server_default="0"),
    _int("version"),
    _moment("created_at", nullable=False),
    Index("budgets_group", "group_id"),
)

claims = Table(
    "claims",
    metadata,
    Column("budget_id", String, nullable=False),
    Column("machine_id", String, nullable=False),
    Column("rollout_id", String, nullable=False),
    _moment("taken_at", nullable=False),
    Column("overdraft", Integer, nullable=False, server_default="0"),
    PrimaryKeyConstraint("budget_id", "machine_id"),
    Index("claims_machine", "machine_id"),
)

# When claims were taken, kept for the longest rate period: what a rate counts.
starts = Table(
    "starts",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("budget_id", String, nullable=False),
    _moment("at", nullable=False),
    Index("starts_budget", "budget_id", "at"),
)

holds = Table(
    "holds",
    metadata,
    Column("machine_id", String, nullable=False),
    Column("system", String, nullable=False),
    Column("group_id", String, nullable=False),
    _text("reason"),
    _moment("since", nullable=False),
    _moment("until"),
    Column("lifted_by", Text, nullable=False, server_default=""),
    _text("budget_id"),
    _int("priority"),
    PrimaryKeyConstraint("machine_id", "system"),
    Index("holds_group", "group_id"),
    Index("holds_budget", "budget_id", "priority", "since"),
)

calls = Table(
    "calls",
    metadata,
    Column("id", String, primary_key=True),
    Column("group_id", String, nullable=False),
    _text("verb"),
    Column("machines", Text, nullable=False, server_default="[]"),
    _text("target"),
    Column("force", Integer, nullable=False, server_default="0"),
    _text("actor"),
    _text("state", "open"),
    Column("refusal", Text, nullable=False, server_default=""),
    _moment("created_at", nullable=False),
    Index("calls_group", "group_id", "state"),
)

blackouts = Table(
    "blackouts",
    metadata,
    Column("id", String, primary_key=True),
    _text("name"),
    # Empty: every group.
    _text("group_id"),
    _moment("opens", nullable=False),
    _moment("closes", nullable=False),
)

# Queries that must stay quiet while a rollout goes over their group.
alarms = Table(
    "alarms",
    metadata,
    Column("id", String, primary_key=True),
    Column("group_id", String, nullable=False),
    Column("name", String, nullable=False),
    Column("url", Text, nullable=False),
    Column("query", Text, nullable=False),
    _text("action"),
    _text("state", "unknown"),
    _moment("since", nullable=False),
    _moment("fired_at"),
    _moment("quiet_at"),
    Column("detail", Text, nullable=False, server_default=""),
    UniqueConstraint("group_id", "name"),
)

# Windows that recur.  `starts` and `expires` are wall-clock times of the zone, as text.
schedules = Table(
    "schedules",
    metadata,
    Column("id", String, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    _text("scope", "default"),
    _text("region", "local"),
    _text("starts"),
    _text("expires"),
    _text("zone", "UTC"),
    _int("length_s"),
    _text("recur_every"),
    _moment("created_at", nullable=False),
)

# Which groups work only in whose windows.
assignments = Table(
    "assignments",
    metadata,
    Column("schedule_id", String, nullable=False),
    Column("group_id", String, nullable=False),
    # As Azure's clients called it; the schedule's own name otherwise.
    _text("name"),
    PrimaryKeyConstraint("schedule_id", "group_id"),
    Index("assignments_group", "group_id"),
)

# What Azure's clients wrote of a thing and no column holds, under the thing's own key.
arm_documents = Table(
    "arm_documents",
    metadata,
    Column("key", String, primary_key=True),
    Column("document", Text, nullable=False),
)

story = Table(
    "story",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("group_id", String, nullable=False),
    _moment("at", nullable=False),
    Column("line", Text, nullable=False),
    Index("story_group", "group_id", "id"),
)

images = Table(
    "images",
    metadata,
    Column("name", String, primary_key=True),
    _moment("created_at", nullable=False),
)

image_versions = Table(
    "image_versions",
    metadata,
    Column("image_name", String, nullable=False),
    Column("version", String, nullable=False),
    _text("format"),
    _text("sha256"),
    Column("size", BigInteger, nullable=False, server_default="0"),
    Column("excluded", Integer, nullable=False, server_default="0"),
    Column("floor", Integer, nullable=False, server_default="0"),
    _text("note"),
    _moment("published_at", nullable=False),
    PrimaryKeyConstraint("image_name", "version", "format"),
)

image_replicas = Table(
    "image_replicas",
    metadata,
    Column("image_name", String, nullable=False),
    Column("version", String, nullable=False),
    Column("region", String, nullable=False),
    _text("state"),
    # Why it failed, when it did.
    Column("note", Text, nullable=False, server_default=""),
    Column("excluded", Integer, nullable=False, server_default="0"),
    PrimaryKeyConstraint("image_name", "version", "region"),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", String, primary_key=True),
    _text("name"),
    _text("secret_hash"),
    _text("role"),
    _text("scope"),
    _moment("created_at", nullable=False),
    _moment("expires_at"),
    _moment("revoked_at"),
    UniqueConstraint("name"),
)

enrol_tokens = Table(
    "enrol_tokens",
    metadata,
    Column("secret_hash", String, primary_key=True),
    _text("machine_id"),
    # With no machine named yet: the group a machine that brings this token joins.
    _text("group_id"),
    _moment("expires_at", nullable=False),
    _moment("used_at"),
    _text("used_by_uuid"),
)

audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    _moment("at", nullable=False),
    _text("actor"),
    _text("source"),
    _text("verb"),
    _text("subject"),
    Column("detail", Text, nullable=False, server_default=""),
    _int("status"),
    Index("audit_at", "at"),
)

settings = Table(
    "settings",
    metadata,
    Column("key", String, primary_key=True),
    Column("value", Text, nullable=False),
)

__all__ = [
    "actions",
    "agents",
    "alarms",
    "arm_documents",
    "assignments",
    "audit",
    "blackouts",
    "budgets",
    "calls",
    "claims",
    "enrol_tokens",
    "groups",
    "holds",
    "hook_answers",
    "hook_events",
    "image_replicas",
    "image_versions",
    "images",
    "machines",
    "metadata",
    "rollouts",
    "schedules",
    "settings",
    "starts",
    "story",
    "tasks",
    "tokens",
]
