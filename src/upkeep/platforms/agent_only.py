"""Machines that were there before upkeep, and whose power somebody else holds.

Their agent is watched and told, to drain and to restart them (engine/executor.py passes that on);
nothing makes, starts or stops them.  Deleting one is forgetting it: the machine is left as it is.
"""

from collections.abc import Mapping, Sequence

from upkeep.ports import DriverError, DriverErrorKind, MachineSpec, MachineStatus, OsImage


def refusal(name: str, what: str) -> str:
    """Why upkeep does not do that, and who can."""
    return f"machine {name} only runs the agent: upkeep does not hold its power; {what} it yourself"


class AgentOnlyPlatform:
    """`upkeep.ports.Platform` for them; every call but `delete` is refused."""

    def observe(self, names: Sequence[str]) -> Sequence[MachineStatus]:
        text = f"nobody but their agents can say how {', '.join(names)} are"
        raise DriverError(DriverErrorKind.UNREACHABLE, text, retryable=False)

    def create(self, spec: MachineSpec, *, key: str, fence: int) -> None:
        raise _refused(spec.name, "make")

    def start(self, name: str, *, key: str, fence: int) -> None:
        raise _refused(name, "start")

    def stop(self, name: str, *, key: str, fence: int) -> None:
        raise _refused(name, "stop")

    def restart(self, name: str, *, key: str, fence: int) -> None:
        raise _refused(name, "restart")

    def replace_os_disk(
        self,
        name: str,
        image: OsImage,
        seed: Mapping[str, bytes],
        *,
        model: str = "",
        key: str,
        fence: int,
    ) -> None:
        raise _refused(name, "upgrade")

    def switch_back(self, name: str, *, key: str, fence: int) -> None:
        raise _refused(name, "roll back")

    def delete(self, name: str, *, key: str, fence: int) -> None:
        """Nothing is removed from the machine."""


def _refused(name: str, what: str) -> DriverError:
    return DriverError(DriverErrorKind.FAILED, refusal(name, what), retryable=False)
