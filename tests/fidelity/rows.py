"""The numbers of the contract sheets, as their tables "Numbers worth testing" have them.

A test cites a row: `@pytest.mark.number("os-image", "batch share")`.  Rows of systems that are not
built yet come with them.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """`name` is how tests cite it; `missing`: why no test does, said plainly."""

    name: str
    rule: str
    number: str
    source: str
    missing: str = ""


# The sheet's file, without its suffix → its own name here, and its rows.
OS_IMAGE = "os-image"

ROWS: dict[str, tuple[Row, ...]] = {
    OS_IMAGE: (
        Row(
            name="batch share",
            rule="default batch share, floor, minimum",
            number="20 %, round down, 1",
            source="AOU, SDK ([DEC] rounding)",
        ),
        Row(
            name="batch sizes",
            rule="batch for N = 1, 5, 9, 10, 14, 100 at 20 %",
            number="1, 1, 1, 2, 2, 20",
            source="AOU, ROLL",
        ),
        Row(name="batch range", rule="batch percent", number="5..100", source="SDK33"),
        Row(name="unhealthy range", rule="unhealthy percent", number="5..100", source="SDK33"),
        Row(
            name="unhealthy-upgraded range",
            rule="unhealthy-upgraded percent",
            number="0..100 (0: the first failure aborts)",
            source="SDK33",
        ),
        Row(name="cross rule", rule="batch ≤ unhealthy", number="21/20 refused", source="BAT"),
        Row(
            name="strict threshold",
            rule="more than, never equal",
            number="N = 10: 2 go on, 3 stop",
            source="ROLL",
        ),
        Row(
            name="defaults",
            rule="defaults of the three percentages and the pause",
            number="20, 20, 20, PT0S",
            source="SDK",
        ),
        Row(
            name="health wait", rule="health wait of an instance", number="5 min", source="AOU, AEU"
        ),
        Row(
            name="first start",
            rule="first automatic upgrade after it is turned on",
            number="≤ 3 h (here: at once)",
            source="AOU",
        ),
        Row(name="history", rule="history", number="last 5, ≤ 2 months", source="AOU"),
        Row(
            name="OS image window",
            rule="maintenance window of scope OSImage",
            number="≥ 5 h, every day or week",
            source="MC, MC2",
        ),
        Row(name="OS image notice", rule="OS image notice", number="exactly PT15M", source="SDK"),
        Row(
            name="surge quota",
            rule="surge asks for quota",
            number="before each batch, else in place",
            source="SURGE",
        ),
        Row(
            name="domains",
            rule="update and fault domains of a new set",
            number="5 and 5",
            source="FAQ",
        ),
        Row(
            name="set size",
            rule="most instances of a set",
            number="1,000",
            source="ORCH, FAQ, SDK",
        ),
        Row(
            name="health settings",
            rule="health interval, probes, product",
            number="5..60 s, 1..24, ≤ 240 s",
            source="HEXT, AHE",
        ),
        Row(
            name="grace period",
            rule="gracePeriod",
            number="5..14400 s, default the product",
            source="HEXT, AHE",
        ),
        Row(
            name="health client",
            rule="health client",
            number="30 s, no redirects",
            source="AHE",
        ),
        Row(
            name="outside probe",
            rule="probe from outside (a balancer's): interval, time-out",
            number="5 s, min(interval, 30 s)",
            source="LBP, AOU",
        ),
        Row(
            name="repairs",
            rule="automatic repairs: share, grace",
            number="5 %, at least 1; 10..90 min, 10",
            source="REP",
        ),
        Row(
            name="external health",
            rule="external health: expiry, grace",
            number="5 min..3 h, 5 min..4 h",
            source="SDK",
            missing="no client can push a signal (sheet §6.6)",
        ),
        Row(
            name="approval reply",
            rule="reply to the approval of a deferral",
            number="202 only",
            source="SDK, RUN",
        ),
        Row(
            name="PATCH reply",
            rule="reply to a PATCH of a set",
            number="200 only",
            source="SDK, RUN",
        ),
        Row(
            name="poll gap",
            rule="a client's gap between two looks",
            number="30 s without Retry-After, so it is sent",
            source="azure-mgmt-core, RUN",
        ),
        Row(
            name="phases",
            rule="phase of custom metrics",
            number="without a number the last; read once, at the start",
            source="CMET",
        ),
    ),
}
