"""Every wait of the running agent in one value; tests and demonstrations give shorter ones."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Attributes:
    retry_first_s, retry_max_s: after a failed call: doubled each time, up to a minute, so that
        a fleet is back within a minute of its server, and not all at once.
    refused_retry_s: after a refusal that only a person can lift.
    jitter: share by which every heartbeat is spread, both ways.
    facts_every_s: how often files such as /run/reboot-required are looked at.
    change_gap_s: at least so long between two check-ins, however fast health flaps.
    long_heartbeat_s: between check-ins beside a long poll; they carry the nonce by which two
        machines with one identity are found out.
    restart_max_s: from a restart command to a new boot id, or the command has failed.
    poll_gap_s: between two polls when the first came back at once with nothing new: the server
        repeats a command until its outcome is there, and a restart takes a while.
    poll_margin_s: how much longer than `wait` a poll's answer may take.
    """

    retry_first_s: float = 1.0
    retry_max_s: float = 60.0
    refused_retry_s: float = 900.0
    jitter: float = 0.1
    facts_every_s: float = 5.0
    change_gap_s: float = 0.2
    long_heartbeat_s: float = 300.0
    restart_max_s: float = 600.0
    poll_gap_s: float = 2.0
    poll_margin_s: float = 15.0


def retry_delay_s(failures: int, *, timing: Timing, draw: float) -> float:
    """The wait after so many failures in a row.

    Half of it is fixed and half is drawn, so that machines which lost their server in one moment
    do not come back in one.

    Args:
        draw: from 0 to 1.
    """
    assert failures > 0
    # 2**30 s is 34 years: more doublings only make a number too large for a float.
    full_s = min(timing.retry_max_s, timing.retry_first_s * 2.0 ** min(failures - 1, 30))
    return full_s * (0.5 + draw / 2)


def spread(seconds: float, *, timing: Timing, draw: float) -> float:
    """A heartbeat's wait with its jitter; `draw` from 0 to 1, the middle changes nothing."""
    return seconds * (1 + timing.jitter * (2 * draw - 1))
