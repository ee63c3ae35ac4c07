"""The collector passes by what it has found alive, and still finds garbage in the end."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from upkeep.server.pauses import ShortPauses


class Cycle:
    def __init__(self) -> None:
        self.itself = self


class Collector:
    """Python's own, with the time that each full collection is said to take."""

    def __init__(self) -> None:
        self.now = 0.0
        self.takes = 0.0
        self.pauses = ShortPauses(slow_s=0.05, clock=self._clock)

    def _clock(self) -> float:
        self.now += self.takes
        return self.now

    def collect(self, *, takes: float, generation: int = 2) -> None:
        self.takes = takes
        gc.collect(generation)


@pytest.fixture
def collector() -> Iterator[Collector]:
    gc.disable()  # None but the test's own.
    gc.collect()
    assert gc.get_freeze_count() == 0
    collector = Collector()
    collector.pauses.begin()
    yield collector
    collector.pauses.end()
    gc.enable()
    gc.collect()


def test_what_a_slow_collection_finds_alive_is_frozen(collector: Collector) -> None:
    kept = Cycle()
    collector.collect(takes=0.05)
    assert gc.get_freeze_count() > 0
    assert not any(each is kept for each in gc.get_objects())


def test_a_quick_collection_freezes_nothing(collector: Collector) -> None:
    collector.collect(takes=0.049)
    assert gc.get_freeze_count() == 0


def test_a_young_collection_freezes_nothing(collector: Collector) -> None:
    collector.collect(takes=1.0, generation=1)
    assert gc.get_freeze_count() == 0


def test_frozen_garbage_is_found_once_as_much_again_was_looked_at(collector: Collector) -> None:
    doomed = Cycle()
    gone = weakref.ref(doomed)
    collector.collect(takes=0.25)
    del doomed
    for _ in range(2):
        collector.collect(takes=0.1)
        assert gc.get_freeze_count() > 0
        assert gone() is not None, "it is frozen: the collector passes it by"
    collector.collect(takes=0.1)
    assert gc.get_freeze_count() == 0, "0.3 s since the look at everything, which took 0.25"
    collector.collect(takes=0.3)
    assert gone() is None
    assert gc.get_freeze_count() > 0, "and what is alive is frozen again"


def test_quick_collections_never_thaw(collector: Collector) -> None:
    collector.collect(takes=0.25)
    for _ in range(100):
        collector.collect(takes=0.04)
    assert gc.get_freeze_count() > 0


def test_at_the_end_nothing_stays_frozen() -> None:
    pauses = ShortPauses(slow_s=0.0)
    pauses.begin()
    gc.collect()
    assert gc.get_freeze_count() > 0
    pauses.end()
    assert gc.get_freeze_count() == 0
    assert pauses not in gc.callbacks
