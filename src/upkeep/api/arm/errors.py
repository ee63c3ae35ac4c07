"""Errors in Azure's shape, `{"error": {"code", "message"}}`, with Azure's own codes."""

from collections.abc import Mapping

from upkeep.api.arm.route import ArmReply
from upkeep.api.problems import DETAIL_LENGTH_MAX, InputError, ProblemKind

K = ProblemKind

# Source: sheet os-image §9.4, and what Azure's clients look for (§9.2).
CODES: Mapping[ProblemKind, str] = {
    K.BAD_REQUEST: "BadRequest",
    K.INVALID: "InvalidParameter",
    K.UNAUTHENTICATED: "AuthenticationFailed",
    K.TOKEN_EXPIRED: "ExpiredAuthenticationToken",
    K.TOKEN_REVOKED: "AuthenticationFailed",
    K.TOKEN_UNKNOWN: "InvalidAuthenticationToken",
    K.FORBIDDEN: "AuthorizationFailed",
    K.NOT_FOUND: "ResourceNotFound",
    K.METHOD_NOT_ALLOWED: "HttpMethodNotAllowed",
    K.CONFLICT: "OperationNotAllowed",
    K.REFUSED: "OperationNotAllowed",
    K.TOO_LARGE: "RequestEntityTooLarge",
    K.TOO_MANY: "TooManyRequests",
    K.UNAVAILABLE: "ServerBusy",
    K.NO_SPACE: "InternalExecutionError",
    K.INTERNAL: "InternalExecutionError",
}


def error_reply(error: InputError) -> ArmReply:
    code = CODES.get(error.kind, "BadRequest")
    return ArmReply(
        status=error.status,
        body=error_body(code, error.detail[:DETAIL_LENGTH_MAX]),
        headers=error.headers(),
    )


def error_body(code: str, message: str) -> dict[str, dict[str, str]]:
    return {"error": {"code": code, "message": message}}
