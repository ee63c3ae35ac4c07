"""Bringing the agent to a machine: the pasted line, the script it runs, the agent's one file.

The line carries the pin: it fetches the CA without trust, compares its SHA-256, and only then
fetches the script through it.  So nobody in between can put a script of theirs in its place.
The script does the same again for the agent's file, because people keep scripts.
"""

import tempfile
from functools import lru_cache
from pathlib import Path

from litestar import Response, get
from litestar.di import NamedDependency

from upkeep.agent.pack import build_zipapp
from upkeep.api.auth import ANONYMOUS
from upkeep.api.services import Services

INSTALL_SCRIPT = """\
#!/bin/sh
# Installs the upkeep agent and enrols this machine:
#   sh install.sh --server https://HOST:PORT --ca-sha256 HEX --token TOKEN [--machine NAME]
# Needs curl, openssl and python3 (3.9 or newer); run it as root.
set -eu
server= pin= token= machine=
# What was given is never shown: the token may be anywhere in a line that went wrong, and what is
# on a terminal is soon in a log or a ticket.
wrong() {
    echo "upkeep: $1; paste the whole line again, as 'upkeep machine add' shows it" >&2
    exit 2
}
while [ $# -gt 0 ]; do
    case "$1" in
        --server | --ca-sha256 | --token | --machine) ;;
        --*) wrong "the script knows --server, --ca-sha256, --token and --machine alone" ;;
        *) wrong "there is a word before, after or between the options" ;;
    esac
    case "${2:-}" in
        "" | --server | --ca-sha256 | --token | --machine) wrong "$1 has no value" ;;
    esac
    case "$1" in
        --server) server=$2 ;;
        --ca-sha256) pin=$2 ;;
        --token) token=$2 ;;
        --machine) machine=$2 ;;
    esac
    shift 2
done
[ -n "$server" ] || wrong "--server is missing"
[ -n "$pin" ] || wrong "--ca-sha256 is missing"
[ -n "$token" ] || wrong "--token is missing"
for tool in curl openssl python3; do
    command -v "$tool" >/dev/null || { echo "upkeep: install $tool first" >&2; exit 1; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
curl -fsSk --max-time 30 "$server/agent/v1/ca" >"$work/ca.pem"
seen=$(openssl x509 -in "$work/ca.pem" -outform DER | openssl dgst -sha256 -r | cut -c1-64)
if [ "$seen" != "$pin" ]; then
    echo "upkeep: $server shows the CA $seen, but $pin is pinned; nothing was installed" >&2
    exit 1
fi
curl -fsS --max-time 120 --cacert "$work/ca.pem" "$server/agent/v1/agent.pyz" >"$work/agent.pyz"
set -- --server "$server" --ca-sha256 "$pin" "--token=$token"
[ -z "$machine" ] || set -- "$@" --machine "$machine"
python3 "$work/agent.pyz" install "$@"
"""


def pasted_line(server: str, ca_sha256: str, *, machine: str, token: str) -> str:
    """One line of POSIX sh that installs the agent as `machine`; to be run as root."""
    return (
        "( set -e; d=$(mktemp -d); trap 'rm -rf $d' EXIT;"
        f" curl -fsSk {server}/agent/v1/ca >$d/ca;"
        " [ $(openssl x509 -in $d/ca -outform DER | openssl dgst -sha256 -r | cut -c1-64)"
        f" = {ca_sha256} ] || {{ echo 'wrong CA, nothing was installed' >&2; exit 1; }};"
        f" curl -fsS --cacert $d/ca {server}/agent/v1/install.sh >$d/install.sh;"
        f" sh $d/install.sh --server {server} --ca-sha256 {ca_sha256} --token {token}"
        f" --machine {machine} )"
    )


@lru_cache(maxsize=1)
def agent_file() -> bytes:
    """The agent's zipapp, made once a process."""
    with tempfile.TemporaryDirectory() as directory:
        return build_zipapp(Path(directory) / "agent.pyz").read_bytes()


@get("/agent/v1/ca", opt=ANONYMOUS, sync_to_thread=False)
def show_ca(services: NamedDependency[Services]) -> Response[str]:
    """The CA itself: the one answer that is fetched without verification."""
    return Response(services.certificates.ca_pem, media_type="application/x-pem-file")


@get("/agent/v1/install.sh", opt=ANONYMOUS, sync_to_thread=False)
def install_script() -> Response[str]:
    """What the pasted line runs."""
    return Response(INSTALL_SCRIPT, media_type="text/x-shellscript")


@get("/agent/v1/agent.pyz", opt=ANONYMOUS, sync_to_thread=True)
def agent_zipapp() -> Response[bytes]:
    """The agent's one file."""
    return Response(agent_file(), media_type="application/zip")


ROUTES = [show_ca, install_script, agent_zipapp]
