"""Azure's dialect: Azure's own clients, unmodified, against this server.

It translates and decides nothing.  `_routes` is all that it has; each request is identified before
(app.py), compared with its route's role, handled, answered in Azure's shapes.
"""

from typing import Any
from urllib.parse import parse_qsl

import msgspec

from upkeep.api.arm import (
    galleries,
    instances,
    operations,
    power,
    providers,
    resource_groups,
    rolling_upgrades,
    scale_sets,
    scopes,
    set_changes,
)
from upkeep.api.arm.errors import error_reply
from upkeep.api.arm.login import Login, endpoints, openid
from upkeep.api.arm.route import ArmReply, ArmRequest, Route, RouteTable, reads
from upkeep.api.arm.scopes import COMPUTE, SETS
from upkeep.api.auth import Actor, Authenticator, Role, actor_with_role
from upkeep.api.errors import input_error_from
from upkeep.api.plain_http import BODY_BYTES_MAX, header, read_body
from upkeep.api.problems import InputError, ProblemKind, invalid
from upkeep.api.services import Services
from upkeep.core.model import Verb

FIELDS_MAX = 100
NOBODY = Actor(token_id="", name="", role=Role.READER, scope="")

READ, OPERATE = Role.READER, Role.OPERATOR

_SUB = "/subscriptions/{subscription}"
_RG = f"{_SUB}/resourceGroups/{{group}}"
_SET = f"{_RG}/{SETS}/{{set}}"
_INSTANCE = f"{_SET}/virtualMachines/{{instance}}"
_GALLERY = f"{_RG}/{COMPUTE}/galleries/{{gallery}}"
_IMAGE = f"{_GALLERY}/images/{{image}}"
_VERSION = f"{_IMAGE}/versions/{{version}}"
_LOCATION = f"{_SUB}/{COMPUTE}/locations/{{location}}"


def _routes(login: Login) -> tuple[Route, ...]:
    rows = (
        ("GET", "/metadata/endpoints", None, endpoints),
        ("GET", "/adfs/.well-known/openid-configuration", None, openid),
        ("POST", "/adfs/oauth2/token", None, login.token),
        ("GET", "/subscriptions", READ, reads(scopes.list_subscriptions)),
        ("GET", "/tenants", READ, reads(scopes.list_tenants)),
        ("GET", _SUB, READ, reads(scopes.show_subscription)),
        ("GET", f"{_SUB}/resourceGroups", READ, reads(resource_groups.show_list)),
        ("GET", _RG, READ, reads(resource_groups.show)),
        ("HEAD", _RG, READ, reads(resource_groups.exists)),
        ("PUT", _RG, OPERATE, resource_groups.put),
        ("DELETE", _RG, OPERATE, resource_groups.delete),
        ("GET", f"{_SUB}/providers", READ, reads(providers.show_list)),
        ("GET", f"{_SUB}/providers/{{provider}}", READ, reads(providers.show)),
        ("POST", f"{_SUB}/providers/{{provider}}/register", READ, reads(providers.show)),
        ("GET", f"{_SUB}/{COMPUTE}/galleries", READ, reads(galleries.show_list)),
        ("GET", f"{_RG}/{COMPUTE}/galleries", READ, reads(galleries.show_list)),
        ("GET", _GALLERY, READ, reads(galleries.show)),
        ("GET", f"{_GALLERY}/images", READ, reads(galleries.show_images)),
        ("GET", _IMAGE, READ, reads(galleries.show_image)),
        ("PUT", _IMAGE, OPERATE, galleries.put_image),
        ("GET", f"{_IMAGE}/versions", READ, reads(galleries.show_versions)),
        ("GET", _VERSION, READ, reads(galleries.show_version)),
        ("PUT", _VERSION, OPERATE, galleries.put_version),
        ("PATCH", _VERSION, OPERATE, galleries.patch_version),
        ("GET", f"{_SUB}/{SETS}", READ, reads(scale_sets.show_list)),
        ("GET", f"{_LOCATION}/virtualMachineScaleSets", READ, reads(scale_sets.show_list)),
        ("GET", f"{_LOCATION}/operations/{{operation}}", READ, reads(operations.show)),
        ("GET", f"{_RG}/{SETS}", READ, reads(scale_sets.show_list)),
        ("GET", _SET, READ, reads(scale_sets.show)),
        ("PUT", _SET, OPERATE, set_changes.put),
        ("PATCH", _SET, OPERATE, set_changes.patch),
        ("DELETE", _SET, OPERATE, set_changes.delete),
        ("GET", f"{_SET}/instanceView", READ, reads(scale_sets.show_view)),
        ("GET", f"{_SET}/virtualMachines", READ, reads(instances.show_list)),
        ("GET", _INSTANCE, READ, reads(instances.show)),
        ("PUT", _INSTANCE, OPERATE, instances.change),
        ("GET", f"{_INSTANCE}/instanceView", READ, reads(instances.show_view)),
        ("GET", f"{_SET}/rollingUpgrades/latest", READ, reads(rolling_upgrades.show_latest)),
        ("GET", f"{_SET}/osUpgradeHistory", READ, reads(rolling_upgrades.show_history)),
        ("POST", f"{_SET}/restart", OPERATE, power.of_set(Verb.RESTART)),
        ("POST", f"{_SET}/start", OPERATE, power.of_set(Verb.START)),
        ("POST", f"{_SET}/powerOff", OPERATE, power.of_set(Verb.STOP)),
        ("POST", f"{_SET}/deallocate", OPERATE, power.of_set(Verb.STOP)),
        ("POST", f"{_SET}/delete", OPERATE, power.of_set(Verb.DELETE, must_name=True)),
        ("POST", f"{_INSTANCE}/restart", OPERATE, power.of_instance(Verb.RESTART)),
        ("POST", f"{_INSTANCE}/start", OPERATE, power.of_instance(Verb.START)),
        ("POST", f"{_INSTANCE}/powerOff", OPERATE, power.of_instance(Verb.STOP)),
        ("POST", f"{_INSTANCE}/deallocate", OPERATE, power.of_instance(Verb.STOP)),
        ("DELETE", _INSTANCE, OPERATE, power.of_instance(Verb.DELETE)),
        ("POST", f"{_SET}/osRollingUpgrade", OPERATE, rolling_upgrades.start),
        ("POST", f"{_SET}/manualupgrade", OPERATE, rolling_upgrades.upgrade_instances),
        ("POST", f"{_SET}/rollingUpgrades/cancel", OPERATE, rolling_upgrades.cancel),
    )
    return tuple(
        Route(method=method, path=path, role=role, handler=handler)
        for method, path, role, handler in rows
    )


class ArmApp:
    """Plain ASGI; `has` says which paths are its own."""

    def __init__(self, services: Services, authenticator: Authenticator) -> None:
        self._services = services
        self.routes = _routes(Login(authenticator))
        self._table = RouteTable(self.routes)

    def has(self, path: str) -> bool:
        return path[:15].casefold().startswith(("/subscriptions/", "/adfs/")) or self._table.has(
            path
        )

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            reply = await self._reply(scope, receive)
        except Exception as error:
            reply = error_reply(input_error_from(error))
        await _send(send, reply)

    async def _reply(self, scope: Any, receive: Any) -> ArmReply:
        path = scope["path"]
        route, params = self._table.find(scope["method"], path)
        actor = actor_with_role(scope, route.role) if route.role is not None else NOBODY
        body = await read_body(scope, receive, bytes_max=BODY_BYTES_MAX)
        is_form = header(scope, b"content-type").startswith(b"application/x-www-form-urlencoded")
        host = header(scope, b"host").decode("latin-1")
        return await route.handler(
            ArmRequest(
                services=self._services,
                actor=actor,
                base=f"https://{host}",
                path=path,
                params=params,
                query=_pairs(scope["query_string"], fold=True),
                form=_pairs(body, fold=False) if is_form else {},
                body=None if is_form or not body.strip() else _json(body),
            )
        )


def _pairs(text: bytes, *, fold: bool) -> dict[str, str]:
    """A query or a form; of a name that comes twice the last counts.

    Raises:
        InputError: there are more than anybody sends.
    """
    if text.count(b"&") >= FIELDS_MAX:
        raise invalid(f"a query or a form has at most {FIELDS_MAX} fields")
    pairs = parse_qsl(text.decode("utf-8", "replace"), keep_blank_values=True)
    return {(name.casefold() if fold else name): value for name, value in pairs}


def _json(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(ProblemKind.BAD_REQUEST, f"the body must be JSON: {error}") from None


async def _send(send: Any, reply: ArmReply) -> None:
    body = b"" if reply.body is None else msgspec.json.encode(reply.body)
    headers = [(b"content-length", b"%d" % len(body)), (b"x-content-type-options", b"nosniff")]
    if body:
        headers.append((b"content-type", b"application/json; charset=utf-8"))
    headers += [(name.lower().encode(), text.encode()) for name, text in reply.headers.items()]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
