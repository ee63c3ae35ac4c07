"""What `az login` and azure-identity ask before they ask for anything else.

A service principal is a token of ours: its id is the client id, its secret the client secret.  The
login endpoint ends in `/adfs`, which clients take for a private cloud's and then leave public
discovery alone.  Source: DESIGN §9.
"""

import re
from typing import Any

from upkeep.api.arm.route import ArmReply, ArmRequest
from upkeep.api.auth import Authenticator
from upkeep.api.problems import InputError

# How long a client keeps what it was given before it asks again.
LIFE_S = 3_600
_CLIENT_ID = re.compile(r"upk_[0-9a-z]{1,40}")


async def endpoints(request: ArmRequest) -> ArmReply:
    """Where the parts of this cloud are: all of them here."""
    base = request.base
    document: dict[str, Any] = {
        "name": "upkeep",
        "portal": base,
        "resourceManager": f"{base}/",
        "authentication": {
            "loginEndpoint": f"{base}/adfs",
            "audiences": [f"{base}/"],
            "tenant": "adfs",
            "identityProvider": "ADFS",
        },
        "graph": base,
        "graphAudience": base,
        "gallery": base,
        "suffixes": {"keyVaultDns": "", "storage": ""},
    }
    return ArmReply(body=document)


async def openid(request: ArmRequest) -> ArmReply:
    base = f"{request.base}/adfs"
    return ArmReply(
        body={
            "issuer": base,
            "authorization_endpoint": f"{base}/oauth2/authorize",
            "token_endpoint": f"{base}/oauth2/token",
            "jwks_uri": f"{base}/discovery/keys",
            "response_types_supported": ["code"],
            "subject_types_supported": ["pairwise"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "token_endpoint_auth_methods_supported": ["client_secret_post"],
        }
    )


class Login:
    """Trades a client id and its secret for a bearer token: our own, as it is."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    async def token(self, request: ArmRequest) -> ArmReply:
        form = request.form
        if form.get("grant_type") != "client_credentials":
            return _refused("unsupported_grant_type", "only client_credentials is known here")
        client, secret = form.get("client_id", ""), form.get("client_secret", "")
        if not _CLIENT_ID.fullmatch(client):
            text = "client_id: the part of a token before its dot, as upk_…; see upkeep token list"
            return _refused("invalid_client", text)
        try:
            await self._authenticator.check(f"{client}.{secret}")
        except InputError as error:
            return _refused("invalid_client", error.detail, status=401)
        return ArmReply(
            body={
                "token_type": "Bearer",
                "access_token": f"{client}.{secret}",
                "expires_in": LIFE_S,
            },
            headers={"Cache-Control": "no-store"},
        )


def _refused(error: str, text: str, *, status: int = 400) -> ArmReply:
    """Source: RFC 6749 §5.2."""
    return ArmReply(status=status, body={"error": error, "error_description": text})
