"""One platform in a test: machines to make, and what to ask of them."""

import os
import signal
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from platforms import PlatformCase, nowhere, wait_for

from upkeep.ports import MachineSpec, MachineStatus, OsImage, Platform, Power


@dataclass(slots=True)
class Fleet:
    """One platform in a test: fresh names, keys and fences, and what to ask of machines."""

    case: PlatformCase
    root: Path
    platform: Platform
    images: Callable[[str], OsImage]
    _names: list[str] = field(default_factory=list)
    _drawn: int = 0

    def key(self) -> str:
        self._drawn += 1
        return f"{uuid.uuid4().hex}/{self._drawn}"

    def spec(self, *, name: str = "", version: str = "1.0.0", **rest: Any) -> MachineSpec:
        name = name or f"m-{uuid.uuid4().hex[:8]}"
        self._names.append(name)
        seed = rest.pop("seed", {"hello": b"first"})
        return MachineSpec(
            name=name, uuid=str(uuid.uuid4()), image=self.images(version), seed=seed, **rest
        )

    def create(self, **rest: Any) -> str:
        """A running machine whose application answers; gives its name."""
        spec = self.spec(**rest)
        self.platform.create(spec, key=self.key(), fence=1)
        self.look(spec.name)
        return spec.name

    def status(self, name: str) -> MachineStatus:
        return self.platform.observe([name])[0]

    def look_now(self, name: str) -> Mapping[str, Any] | None:
        """What the application sees; None when it does not answer."""
        return self.case.look(self.status(name))

    def look(self, name: str, **wanted: object) -> Mapping[str, Any]:
        """What the application sees, once it answers with these values."""
        seen: list[Mapping[str, Any]] = []

        def answers() -> bool:
            answer = self.look_now(name)
            if answer is None or any(answer[key] != value for key, value in wanted.items()):
                return False
            seen.append(answer)
            return True

        wait_for(self.case, f"{name} answers with {wanted}", answers)
        return seen[-1]

    def killed_at(self, step: str, call: Callable[[Platform], None]) -> None:
        """Make the call in a process of its own that dies by SIGKILL when it reaches the step."""

        def die_at(reached: str) -> None:
            if reached == step:
                os.kill(os.getpid(), signal.SIGKILL)

        child = os.fork()
        if child == 0:
            try:
                call(self.case.open(self.root, die_at))
            finally:
                os._exit(1)  # It came to the end or raised, without reaching the step.
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), f"the call never reached {step}"

    def reopen(self) -> None:
        """A new server process: nothing is known but what the driver has on disk."""
        self.platform = self.case.open(self.root, nowhere)

    def delete_all(self) -> None:
        self.reopen()
        for name in self._names:
            fence = 10_000  # Above anything that a test uses.
            self.platform.delete(name, key=self.key(), fence=fence)
            assert self.status(name).power is Power.ABSENT
