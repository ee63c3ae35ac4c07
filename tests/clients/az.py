"""`az`, unmodified, in an environment and with a configuration of its own."""

import json
import os
import ssl
import subprocess
from pathlib import Path
from typing import Any

import httpx

TIME_MAX_S = 180


class AzError(Exception):
    """`az` ended with another code than 0; the text is what it said."""


class Az:
    """Somebody at a command line who has logged in as a service principal."""

    def __init__(self, python: Path, folder: Path, *, base: str, ca: Path, token: str) -> None:
        self._command = [str(python), "-m", "azure.cli"]
        self._env = {
            **os.environ,
            "PYTHONPATH": "",
            "AZURE_CONFIG_DIR": str(folder),
            "AZURE_CORE_COLLECT_TELEMETRY": "no",
            "AZURE_CORE_NO_COLOR": "true",
            "REQUESTS_CA_BUNDLE": str(ca),
        }
        client_id, _, secret = token.partition(".")
        bearer = {"Authorization": f"Bearer {token}"}
        trust = ssl.create_default_context(cafile=ca)
        answer = httpx.get(f"{base}/tenants", headers=bearer, verify=trust)
        (tenant,) = [each["tenantId"] for each in answer.json()["value"]]
        self("cloud", "register", "--name", "upkeep", "--endpoint-resource-manager", base)
        self("cloud", "set", "--name", "upkeep")
        self("login", "--service-principal", "-u", client_id, "-p", secret, "--tenant", tenant)

    def begins(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self._command, *arguments, "--output", "json", "--only-show-errors"],
            env=self._env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __call__(self, *arguments: str) -> Any:
        """What it printed, decoded.

        Raises:
            AzError: it failed.
        """
        running = self.begins(*arguments)
        out, err = running.communicate(timeout=TIME_MAX_S)
        if running.returncode != 0:
            raise AzError(err.strip())
        return json.loads(out) if out.strip() else None
