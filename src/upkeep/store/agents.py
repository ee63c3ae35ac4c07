"""Agents: who may speak for a machine, what its agent says of it, what waits for it.

A machine's secret and its enrolment tokens are kept as hashes.  What an agent says is written in
one transaction, and only what differs (`absorb`); that it was heard of at all is kept in memory
by the API and flushed in bulk (`write_seen`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, Select, bindparam, delete, insert, select, update

from upkeep.core.model import Lifecycle, MachineId
from upkeep.core.version import is_version
from upkeep.engine.fleet_store import Sighting
from upkeep.ports import AGENT_ONLY
from upkeep.store import actions, sightings
from upkeep.store import tables as t
from upkeep.store.database import to_us
from upkeep.store.policies import policy_from_json
from upkeep.store.tokens import hash_secret, new_secret
from upkeep.store.wakes import mark

ENROL_TOKEN_LIFE = timedelta(hours=1)
# An expired token's row is kept, so that its owner hears "expired" and not "unknown".
ENROL_TOKEN_KEPT = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolment:
    """What came of an attempt to enrol.

    Attributes:
        refusal: empty, or one of token_unknown, token_expired, token_used, machine_unknown.
        secret: the machine's new secret, the only time that anybody sees it.
    """

    refusal: str = ""
    machine_id: str = ""
    machine_name: str = ""
    group_id: str = ""
    secret: str = ""
    secret_hash: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """One command that an agent has answered."""

    key: str
    succeeded: bool
    detail: str


def new_enrol_token(connection: Connection, machine_id: str, now: datetime) -> str:
    """A token with which this machine enrols, once, within an hour; earlier ones stay good.

    They must: a platform may boot a machine with the seed of an attempt that was repeated.
    """
    connection.execute(
        delete(t.enrol_tokens).where(
            t.enrol_tokens.c.machine_id == machine_id,
            t.enrol_tokens.c.expires_at < to_us(now - ENROL_TOKEN_KEPT),
        )
    )
    secret = new_secret()
    connection.execute(
        insert(t.enrol_tokens).values(
            secret_hash=hash_secret(secret),
            machine_id=machine_id,
            expires_at=to_us(now + ENROL_TOKEN_LIFE),
        )
    )
    return secret


def enrol(
    connection: Connection,
    *,
    token: str,
    machine_name: str,
    uuid: str,
    boot_id: str,
    agent_version: str,
    address: str,
    now: datetime,
) -> Enrolment:
    """Trade a one-time token for a secret.

    The same token from the same uuid is answered again, with a new secret, while it is good: the
    reply may have been lost.

    Args:
        address: where the request came from; the prober's way to machines without a platform.
    """
    row = connection.execute(
        select(t.enrol_tokens)
        .where(t.enrol_tokens.c.secret_hash == hash_secret(token))
        .with_for_update()
    ).first()
    if row is None:
        return Enrolment(refusal="token_unknown")
    if row.expires_at <= to_us(now):
        return Enrolment(refusal="token_expired")
    if row.used_at is not None and row.used_by_uuid != uuid:
        return Enrolment(refusal="token_used")
    machine = connection.execute(
        select(t.machines, t.groups.c.platform)
        .join(t.groups, t.groups.c.id == t.machines.c.group_id)
        .where(t.machines.c.id == row.machine_id, t.machines.c.lifecycle != Lifecycle.DELETED)
    ).first()
    if machine is None or (machine_name and machine.name != machine_name):
        return Enrolment(refusal="machine_unknown")
    connection.execute(
        update(t.enrol_tokens)
        .where(t.enrol_tokens.c.secret_hash == row.secret_hash)
        .values(used_at=to_us(now), used_by_uuid=uuid)
    )
    secret = new_secret()
    _write_identity(connection, machine.id, hash_secret(secret), uuid, boot_id, agent_version, now)
    values: dict[str, Any] = {} if machine.uuid else {"uuid": uuid}
    if machine.platform == AGENT_ONLY and address:
        values["address"] = address
    if values:
        connection.execute(update(t.machines).where(t.machines.c.id == machine.id).values(values))
    return Enrolment(
        machine_id=machine.id,
        machine_name=machine.name,
        group_id=machine.group_id,
        secret=secret,
        secret_hash=hash_secret(secret),
    )


def _write_identity(
    connection: Connection,
    machine_id: str,
    secret_hash: str,
    uuid: str,
    boot_id: str,
    agent_version: str,
    now: datetime,
) -> None:
    values = {
        "secret_hash": secret_hash,
        "uuid": uuid,
        "boot_id": boot_id,
        "agent_version": agent_version,
        "conflict": "",
        "locked": 0,
        "enrolled_at": to_us(now),
        "seen_at": to_us(now),
    }
    known = update(t.agents).where(t.agents.c.machine_id == machine_id).values(values)
    if connection.execute(known).rowcount == 0:
        connection.execute(insert(t.agents).values(machine_id=machine_id, **values))


_IDENTITIES: Select[Any] = (
    select(
        t.agents.c.machine_id,
        t.agents.c.secret_hash,
        t.agents.c.uuid,
        t.agents.c.locked,
        t.machines.c.group_id,
    )
    .join(t.machines, t.machines.c.id == t.agents.c.machine_id)
    .where(t.machines.c.lifecycle != Lifecycle.DELETED)
)


def find_identity(connection: Connection, machine_id: str) -> Row[Any] | None:
    """Who may speak for this machine, if it is enrolled and there."""
    return connection.execute(_IDENTITIES.where(t.agents.c.machine_id == machine_id)).first()


def identities(connection: Connection) -> Sequence[Row[Any]]:
    return connection.execute(_IDENTITIES).all()


def forget_deleted(connection: Connection) -> list[str]:
    """Drop the agents of machines that are gone; answers their machines' ids."""
    gone = list(
        connection.execute(
            select(t.agents.c.machine_id)
            .outerjoin(t.machines, t.machines.c.id == t.agents.c.machine_id)
            .where(t.machines.c.id.is_(None) | (t.machines.c.lifecycle == Lifecycle.DELETED))
            .limit(1_000)
        ).scalars()
    )
    if gone:
        connection.execute(delete(t.agents).where(t.agents.c.machine_id.in_(gone)))
        connection.execute(delete(t.enrol_tokens).where(t.enrol_tokens.c.machine_id.in_(gone)))
    return gone


# What is known of the machine that its agent speaks of.
_KNOWN = (
    select(
        t.agents,
        t.machines.c.in_work,
        t.machines.c.boots,
        t.groups.c.platform,
        t.groups.c.image_name.label("group_image"),
    )
    .join(t.machines, t.machines.c.id == t.agents.c.machine_id)
    .join(t.groups, t.groups.c.id == t.machines.c.group_id)
    .where(t.agents.c.machine_id == bindparam("machine"))
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Absorbed:
    """What became of a check-in.

    Attributes:
        group: to be announced, if it was marked.
        is_all: all was taken; else the same must be looked at again at the next check-in.
        is_renewed: work on the machine has ended: what was seen of its health before is void.
    """

    group: str | None = None
    is_all: bool = True
    is_renewed: bool = False


def absorb(
    connection: Connection,
    machine_id: str,
    *,
    facts: Mapping[str, str],
    done: Sequence[Done],
    phase: int | None,
    skip: bool | None,
    now: datetime,
) -> Absorbed:
    """Write what an agent says that differs from what is known.

    The image version is taken from the agent only while no action runs on the machine (the
    platform says it at an action's end), and only of the group's own image.  Where no platform
    counts a machine's starts, each new boot id is one.

    Args:
        facts: columns of `agents`.
        phase, skip: what the application asks of rollouts; None: the agent is not asked.
    """
    row = connection.execute(_KNOWN, {"machine": machine_id}).first()
    if row is None:
        return Absorbed()
    changed = {name: text for name, text in facts.items() if getattr(row, name) != text}
    if changed:
        connection.execute(
            update(t.agents).where(t.agents.c.machine_id == machine_id).values(changed)
        )
    ended = _end_commands(connection, machine_id, done, now)
    version = facts["image_version"]
    is_ours = facts["image_name"] == row.group_image and is_version(version)
    has_started = row.platform == AGENT_ONLY and "boot_id" in changed and row.boot_id
    seen = sightings.observe(
        connection,
        MachineId(machine_id),
        Sighting(
            image=version if is_ours and not row.in_work else None,
            boots=row.boots + 1 if has_started else None,
            phase=phase,
            skip=skip,
        ),
        now=now,
    )
    group = seen or next((answer.group for answer in ended), None)
    if group is not None:
        mark(connection, group, now)
    return Absorbed(
        group=group,
        is_all=not row.in_work,
        is_renewed=any(answer.renews_health for answer in ended),
    )


def _end_commands(
    connection: Connection, machine_id: str, done: Sequence[Done], now: datetime
) -> list[actions.Answered]:
    """Write down the answers to what the agent was offered; those that ended something."""
    answers = [
        actions.finish_by_agent(
            connection,
            machine_id,
            each.key,
            succeeded=each.succeeded,
            detail=each.detail,
            now=now,
        )
        for each in done
    ]
    return [answer for answer in answers if answer is not None]


def record_conflict(connection: Connection, machine_id: str, detail: str, *, locked: bool) -> None:
    """Who else uses the identity; `locked`: nobody may use it until the machine enrols anew."""
    values: dict[str, Any] = {"conflict": detail}
    if locked:
        values["locked"] = 1
    connection.execute(update(t.agents).where(t.agents.c.machine_id == machine_id).values(values))


def write_seen(connection: Connection, seen: Mapping[str, datetime]) -> None:
    """When agents were last heard of, in bulk."""
    if seen:
        connection.execute(
            update(t.agents).where(t.agents.c.machine_id == bindparam("machine")),
            [{"machine": machine, "seen_at": to_us(at)} for machine, at in seen.items()],
        )


def machines_with_mail(
    connection: Connection, group_ids: Sequence[str] | None = None
) -> dict[str, set[str]]:
    """Machines with commands that wait for their agents, by group; of these groups or all."""
    query = select(t.actions.c.group_id, t.actions.c.machine_id).where(actions.waits_for_agent())
    if group_ids is not None:
        query = query.where(t.actions.c.group_id.in_(group_ids))
    found: dict[str, set[str]] = {}
    for row in connection.execute(query.distinct()):
        found.setdefault(row.group_id, set()).add(row.machine_id)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    key: str
    fence: int
    verb: str
    timeout_s: int


def commands(connection: Connection, machine_id: str, *, limit: int) -> list[Command]:
    """What waits for a machine's agent, oldest first."""
    found = []
    for row in actions.mailbox(connection, machine_id)[:limit]:
        policy = connection.execute(
            select(t.rollouts.c.policy).where(t.rollouts.c.id == row.rollout_id)
        ).scalar()
        timeout = policy_from_json(policy).drain_timeout if policy else timedelta(0)
        found.append(
            Command(
                key=row.key,
                fence=row.machine_fence,
                verb=row.verb,
                timeout_s=max(1, int(timeout.total_seconds())),
            )
        )
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupHealthSource:
    """A group's probe as JSON text, and which witness decides."""

    probe: str
    source: str


def health_sources(
    connection: Connection, group_ids: Sequence[str] | None = None
) -> dict[str, GroupHealthSource]:
    query = select(t.groups.c.id, t.groups.c.probe, t.groups.c.health_source)
    if group_ids is not None:
        query = query.where(t.groups.c.id.in_(group_ids))
    return {
        row.id: GroupHealthSource(probe=row.probe, source=row.health_source)
        for row in connection.execute(query)
    }
