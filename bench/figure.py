"""One measured figure, as `bench.json` lists it."""

from dataclasses import asdict, dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Attributes:
    budget: the limit that the figure is held against, in the same unit.
    at_most: the figure should not exceed the budget; else it should not fall below it.
    note: how it was measured, where that matters.
    """

    name: str
    value: float
    unit: str
    budget: float
    bound: Literal["at_most", "at_least"] = "at_most"
    note: str = ""

    @property
    def holds(self) -> bool:
        if self.bound == "at_most":
            return self.value <= self.budget
        return self.value >= self.budget

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "value": round(self.value, 3), "holds": self.holds}
