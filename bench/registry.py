"""Which bench measures which figures; in the order in which `make bench` runs them."""

from collections.abc import Mapping, Sequence

# Each is a module of this package with `measure() -> list[Figure]`.  Those that want a quiet
# machine and are short come first, the one that leaves a warm disk cache last.
BENCHES: Mapping[str, Sequence[str]] = {
    "plan": ("plan_group_1000_ms", "plan_group_1000_rolling_ms"),
    "tick": ("tick_100k_idle_ms", "tick_100k_one_changed_ms"),
    "arm": ("arm_read_p99_ms",),
    "checkins": (
        "checkins_per_s",
        "checkin_p99_ms",
        "checkin_cpu_us",
        "checkin_first_per_s",
        "server_rss_100k_mib",
        "long_poll_kib",
    ),
    "worlds": ("worlds_per_min",),
    "roll": ("roll_ratio", "rollback_ratio"),
}


def benches_named(names: Sequence[str]) -> list[str]:
    """The benches that are, or that measure, what is named, in order; all for no name.

    Raises:
        KeyError: neither a bench nor a figure; the text lists them.
    """
    wanted = {bench_of(name) for name in names}
    return [bench for bench in BENCHES if not names or bench in wanted]


def bench_of(name: str) -> str:
    for bench, figures in BENCHES.items():
        if name == bench or name in figures:
            return bench
    known = ", ".join(f"{bench} ({', '.join(figures)})" for bench, figures in BENCHES.items())
    raise KeyError(f"there is no bench or figure {name!r}; there are {known}")
