"""The demonstration, act by act: build, create, roll, publish a broken version, report.

What is reported comes from the machines' own answers and from polls of every machine ten times a
second (`poller.py`), not from the server's opinion; only the number of the batch after which the
bad version was halted is the server's word.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from upkeep.cli.client import Client
from upkeep.demo.poller import Poller, Seen
from upkeep.demo.stage import (
    BROKEN,
    GOOD,
    NEXT,
    DemoError,
    Stage,
    build_images,
    keep_log,
    need_root,
    open_stage,
    running_server,
)

GROUP = "web"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How patient the demonstration is with one platform's machines.

    Attributes:
        answer_s: how late an answer to the outside poller may be.  An emulated guest on a shared
            core takes seconds while its neighbours boot; one that is off never answers.
        probe_interval_ms: also how long one probe may take.  Where neighbours look ill while a
            broken version is tried, it is not the version that is blamed, and rightly: emulated
            guests did at 1 s on a host with a load of 25.
        health_wait_s: how long a machine may take to be healthy, so also how long a broken
            version is waited for.
        act_s: the longest that one act may take.
    """

    answer_s: float
    probe_interval_ms: int
    health_wait_s: int
    bake_time_s: int
    act_s: float


PACES = {
    "simulated": Pace(answer_s=1, probe_interval_ms=200, health_wait_s=3, bake_time_s=0, act_s=120),
    "nspawn": Pace(answer_s=1, probe_interval_ms=300, health_wait_s=15, bake_time_s=1, act_s=180),
    "libvirt": Pace(
        answer_s=10, probe_interval_ms=3_000, health_wait_s=150, bake_time_s=2, act_s=1_800
    ),
}


@dataclass(slots=True)
class Report:
    """What `--json` writes; the names are part of the product's contract."""

    platform: str
    wall_s: dict[str, float] = field(default_factory=dict)
    versions: dict[str, list[str]] = field(default_factory=dict)
    down_max: int = 0
    polls: int = 0
    polls_failed_while_rolling: int = 0
    bad_version: dict[str, Any] = field(default_factory=dict)

    def to_json(self, seen: dict[str, Seen]) -> dict[str, Any]:
        return {
            "platform": self.platform,
            "machines": [
                {
                    "name": name,
                    "versions": self.versions[name],
                    "boot_ids": len(machine.boot_ids),
                    "data_kept": len(machine.markers) == 1,
                }
                for name, machine in sorted(seen.items())
            ],
            "down_max": self.down_max,
            "polls": self.polls,
            "polls_failed_while_rolling": self.polls_failed_while_rolling,
            "bad_version": self.bad_version,
            "wall_s": {name: round(value, 2) for name, value in self.wall_s.items()},
        }


def run(*, platform: str, machines: int, exit_at_end: bool, json_file: Path | None) -> int:
    """Play the whole demonstration; 0 if it went as it should.

    Raises:
        DemoError: something is missing, or an act did not end in time.
    """
    console = Console(stderr=True)
    need_root(platform)
    with open_stage(platform) as stage:
        report = Report(platform=platform)
        console.print(f"[bold]1. Building three versions of an image[/] ({platform})")
        begun = time.monotonic()
        images = build_images(stage, lambda line: console.print(f"   {line}"))
        report.wall_s["build"] = time.monotonic() - begun
        with running_server(stage) as (client, url, token):
            show = _Show(client, console, stage)
            try:
                poller = _create(show, report, images, machines)
                _roll(show, report, images, poller)
                _roll_bad(show, report, images, poller)
            except DemoError as error:
                raise DemoError(f"{error}\nThe server's log is {keep_log(stage)}") from error
            poller.stop()
            document = report.to_json(poller.seen)
            if json_file:
                json_file.write_text(json.dumps(document, indent=2) + "\n")
            _tell(console, document)
            is_well = is_as_it_should_be(document, machines)
            if not is_well:
                console.print(
                    "[bold red]This is not as it should be[/]; the exit code says so too."
                )
            if not exit_at_end:
                _wait_for_the_audience(console, url, token)
            _clear(show)
    return 0 if is_well else 1


def is_as_it_should_be(document: dict[str, Any], machines: int) -> bool:
    """The demonstration's own verdict, from the report alone."""
    allowed = max(1, machines * 20 // 100)
    bad = document["bad_version"]
    return (
        document["down_max"] <= allowed
        and document["polls_failed_while_rolling"] == 0
        and bad["machines_left_on_it"] == 0
        and bad["machines_touched"] <= allowed
        and all(m["data_kept"] for m in document["machines"])
        and all(m["versions"] == [GOOD, NEXT, NEXT] for m in document["machines"])
    )


class _Show:
    """Talks to the server and prints its story as it goes."""

    def __init__(self, client: Client, console: Console, stage: Stage) -> None:
        self.client = client
        self.console = console
        self.stage = stage
        self.pace = PACES[stage.platform]
        self._told: set[str] = set()

    def wait(self, what: str, is_done: Callable[[], bool]) -> float:
        """Seconds until `is_done`, printing new lines of the story meanwhile."""
        begun = time.monotonic()
        while not is_done():
            if time.monotonic() - begun > self.pace.act_s:
                raise DemoError(f"{what} did not happen within {self.pace.act_s:g} s")
            self.tell_story()
            time.sleep(0.1)
        self.tell_story()
        return time.monotonic() - begun

    def tell_story(self) -> None:
        try:
            lines = self.client.get(f"/v1/groups/{GROUP}/story")["items"]
        except Exception:  # The group does not exist yet, or any more.
            return
        for line in reversed(lines):
            key = f"{line['at']}{line['line']}"
            if key not in self._told:
                self._told.add(key)
                self.console.print(
                    f"   [dim]{line['at'][11:19]}[/] {line['line']}", highlight=False
                )

    def publish(self, image: Any, version: str) -> None:
        kind = image.path.suffix.removeprefix(".")
        path = f"/v1/images/{GROUP}/versions/{version}/{kind}"
        self.client.upload(path, image.path, sha256=image.sha256)

    def ended_rollout(self, target: str) -> dict[str, Any] | None:
        for rollout in self.client.get(f"/v1/groups/{GROUP}/rollouts")["items"]:
            if rollout["target"] == target and rollout["ended_at"]:
                return dict(rollout)
        return None


def _create(show: _Show, report: Report, images: dict[str, Any], machines: int) -> Poller:
    show.console.print(f"[bold]2. Creating {machines} machines[/] on version {GOOD}")
    begun = time.monotonic()
    show.client.post("/v1/images", {"name": GROUP})
    show.publish(images[GOOD], GOOD)
    show.client.post("/v1/groups", group_document(show.stage, machines))

    def all_healthy() -> bool:
        listed = show.client.get("/v1/machines", group=GROUP)["items"]
        return len(listed) == machines and all(m["health"] == "healthy" for m in listed)

    show.wait("healthy machines", all_healthy)
    listed = show.client.get("/v1/machines", group=GROUP)["items"]
    poller = Poller(
        {m["name"]: m["address"] for m in listed},
        port=show.stage.application_port,
        timeout_s=show.pace.answer_s,
    )
    poller.start()
    show.wait("answers from every machine", poller.all_up)
    poller.end_phase()
    report.wall_s["create"] = time.monotonic() - begun
    for name, seen in poller.seen.items():
        report.versions[name] = [seen.version]
    return poller


def group_document(stage: Stage, machines: int) -> dict[str, Any]:
    pace = PACES[stage.platform]
    return {
        "name": GROUP,
        "kind": "scale_set",
        "platform": stage.platform,
        "capacity": machines,
        "image": GROUP,
        "probe": {
            "protocol": "http",
            "port": stage.application_port,
            "path": "/",
            "interval_ms": pace.probe_interval_ms,
            # A late answer or two of a busy host is not an illness.
            "number_of_probes": 3,
        },
        "policy": {
            "max_batch_percent": 20,
            "health_wait_s": pace.health_wait_s,
            "bake_time_s": pace.bake_time_s,
        },
    }


def _roll(show: _Show, report: Report, images: dict[str, Any], poller: Poller) -> None:
    show.console.print(f"[bold]3. Publishing {NEXT}[/]; nobody asks for the rollout")
    begun = time.monotonic()
    show.publish(images[NEXT], NEXT)
    show.wait(f"the rollout to {NEXT}", lambda: show.ended_rollout(NEXT) is not None)
    show.wait("answers from every machine", poller.all_up)
    report.wall_s["roll"] = time.monotonic() - begun
    _count(report, poller)


def _roll_bad(show: _Show, report: Report, images: dict[str, Any], poller: Poller) -> None:
    show.console.print(f"[bold]4. Publishing {BROKEN}[/], which is broken")
    begun = time.monotonic()
    show.publish(images[BROKEN], BROKEN)
    show.wait(f"the halt of {BROKEN}", lambda: show.ended_rollout(BROKEN) is not None)
    show.wait("answers from every machine", poller.all_up)
    report.wall_s["bad_roll"] = time.monotonic() - begun
    _count(report, poller)
    ended = show.ended_rollout(BROKEN)
    assert ended is not None
    touched = [seen for seen in poller.seen.values() if BROKEN in seen.versions_seen]
    left = [seen for seen in poller.seen.values() if seen.version == BROKEN]
    report.bad_version = {
        "version": BROKEN,
        "halted_after_batch": ended["batch"],
        "machines_touched": len(touched),
        "machines_left_on_it": len(left),
    }


def _count(report: Report, poller: Poller) -> None:
    tally = poller.end_phase()
    report.down_max = max(report.down_max, tally.down_max)
    report.polls += tally.polls
    report.polls_failed_while_rolling += tally.polls_failed
    for name, seen in poller.seen.items():
        report.versions[name].append(seen.version)


def _tell(console: Console, document: dict[str, Any]) -> None:
    bad = document["bad_version"]
    console.print("[bold]What the machines and the outside poller saw[/]")
    console.print(f"   most machines down at once: {document['down_max']}")
    console.print(
        f"   polls: {document['polls']}, of which nobody answered: "
        f"{document['polls_failed_while_rolling']}"
    )
    console.print(
        f"   {bad['version']}: touched {bad['machines_touched']}, "
        f"left on it {bad['machines_left_on_it']}, halted after batch {bad['halted_after_batch']}"
    )
    console.print(f"   seconds: {document['wall_s']}")


def _wait_for_the_audience(console: Console, url: str, token: str) -> None:
    console.print(f"\nThe server runs on at {url} (token {token}); Ctrl-C ends it.")
    try:
        while True:
            time.sleep(60)
    except KeyboardInterrupt:
        console.print("Clearing up.")


def _clear(show: _Show) -> None:
    """Delete the machines with their group, so that nothing is left on this host."""
    show.client.delete(f"/v1/groups/{GROUP}")

    def is_gone() -> bool:
        # The group's row goes with its last machine.
        return all(g["name"] != GROUP for g in show.client.get("/v1/groups")["items"])

    show.wait("the removal of the machines", is_gone)
