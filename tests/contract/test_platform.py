"""The contract of `upkeep.ports.Platform`, on every platform in `platforms.CASES`."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from platform_fleet import Fleet
from platforms import CASES, wait_for

from upkeep.ports import DriverError, DriverErrorKind, Platform, Power

STEPS = [
    pytest.param(case, verb, step, id=f"{case.name}-{step}", marks=case.marks)
    for case in CASES
    for verb, steps in case.steps.items()
    for step in steps
]


def raised(call: Callable[[], None]) -> DriverError:
    with pytest.raises(DriverError) as caught:
        call()
    return caught.value


# -- power ------------------------------------------------------------------------------------


def test_a_created_machine_runs_with_its_name_uuid_and_seed(fleet: Fleet) -> None:
    spec = fleet.spec(seed={"hello": b"first", "upkeep.json": b"{}"})
    fleet.platform.create(spec, key=fleet.key(), fence=1)
    seen = fleet.look(spec.name)
    status = fleet.status(spec.name)
    assert status.power is Power.RUNNING
    assert (status.image_version, status.kept_version, status.boots) == ("1.0.0", "", 1)
    assert seen["version"] == "1.0.0"
    assert seen["host_name"] == spec.name
    assert seen["uuid"] == spec.uuid.replace("-", "")
    assert seen["seed"].items() >= {"hello": "first", "upkeep.json": "{}"}.items()


def test_an_unknown_machine_is_absent_and_every_verb_says_not_found(fleet: Fleet) -> None:
    platform = fleet.platform
    image = fleet.images("1.0.0")
    verbs: list[Callable[[], None]] = [
        lambda: platform.start("nobody", key=fleet.key(), fence=1),
        lambda: platform.stop("nobody", key=fleet.key(), fence=1),
        lambda: platform.restart("nobody", key=fleet.key(), fence=1),
        lambda: platform.replace_os_disk("nobody", image, {}, key=fleet.key(), fence=1),
        lambda: platform.switch_back("nobody", key=fleet.key(), fence=1),
    ]
    assert [raised(verb).kind for verb in verbs] == [DriverErrorKind.NOT_FOUND] * len(verbs)
    assert fleet.status("nobody").power is Power.ABSENT


def test_observe_answers_in_the_order_asked(fleet: Fleet) -> None:
    name = fleet.create()
    seen = fleet.platform.observe(["nobody", name, "nobody-else"])
    assert [status.name for status in seen] == ["nobody", name, "nobody-else"]
    assert [status.power for status in seen] == [Power.ABSENT, Power.RUNNING, Power.ABSENT]


def test_stop_and_start_keep_os_disk_data_and_address(fleet: Fleet) -> None:
    name = fleet.create()
    before = fleet.status(name)
    fleet.platform.stop(name, key=fleet.key(), fence=1)
    assert fleet.status(name).power is Power.OFF
    fleet.platform.start(name, key=fleet.key(), fence=1)
    assert fleet.look(name)["starts"] == 2
    after = fleet.status(name)
    assert (after.address, after.boots) == (before.address, before.boots + 1)


def test_start_and_stop_are_level_triggered(fleet: Fleet) -> None:
    name = fleet.create()
    fleet.platform.start(name, key=fleet.key(), fence=1)
    assert fleet.status(name).boots == 1
    fleet.platform.stop(name, key=fleet.key(), fence=1)
    fleet.platform.stop(name, key=fleet.key(), fence=1)
    assert fleet.status(name).power is Power.OFF


def test_restart_boots_once_and_keeps_the_os_disk(fleet: Fleet) -> None:
    name = fleet.create()
    fleet.platform.restart(name, key=fleet.key(), fence=1)
    assert fleet.look(name, starts=2)["version"] == "1.0.0"
    assert fleet.status(name).boots == 2


def test_restart_starts_a_machine_that_was_off(fleet: Fleet) -> None:
    name = fleet.create()
    fleet.platform.stop(name, key=fleet.key(), fence=1)
    fleet.platform.restart(name, key=fleet.key(), fence=1)
    assert fleet.look(name)["starts"] == 2


def test_machines_with_similar_names_do_not_meet(fleet: Fleet) -> None:
    long = "a-name-of-which-only-the-end-differs-and-so-more-than-fifteen"
    names = [fleet.create(name=f"{long}-{number}") for number in (1, 2)]
    addresses = {fleet.status(name).address for name in names}
    assert len(addresses) == 2
    assert [fleet.look(name)["host_name"] for name in names] == names


# -- OS disks ---------------------------------------------------------------------------------


def test_replace_brings_the_new_image_and_keeps_all_else(fleet: Fleet) -> None:
    name = fleet.create()
    status, seen = fleet.status(name), fleet.look(name)
    seed = {"hello": b"second"}
    fleet.platform.replace_os_disk(name, fleet.images("1.0.1"), seed, key=fleet.key(), fence=1)
    now = fleet.look(name, version="1.0.1")
    assert now["starts"] == seen["starts"] + 1
    assert (now["uuid"], now["host_name"]) == (seen["uuid"], seen["host_name"])
    assert now["seed"]["hello"] == "second"
    after = fleet.status(name)
    assert (after.image_version, after.kept_version) == ("1.0.1", "1.0.0")
    assert (after.address, after.power) == (status.address, Power.RUNNING)


def test_each_os_disk_keeps_the_name_of_the_model_that_it_was_made_with(fleet: Fleet) -> None:
    name = fleet.create(model="first")

    def seen() -> tuple[str, str]:
        return fleet.status(name).model, fleet.status(name).kept_model

    assert seen() == ("first", "")
    fleet.platform.replace_os_disk(
        name, fleet.images("1.0.0"), {}, model="second", key=fleet.key(), fence=1
    )
    assert seen() == ("second", "first")
    fleet.platform.switch_back(name, key=fleet.key(), fence=1)
    assert seen() == ("first", "second")
    fleet.platform.restart(name, key=fleet.key(), fence=1)
    assert seen() == ("first", "second")


def test_replacing_by_the_same_image_gives_a_fresh_disk(fleet: Fleet) -> None:
    name = fleet.create()
    fleet.platform.replace_os_disk(name, fleet.images("1.0.0"), {}, key=fleet.key(), fence=1)
    assert fleet.look(name)["seed"].get("hello") is None
    assert fleet.status(name).kept_version == "1.0.0"


def test_only_the_last_disk_is_kept(fleet: Fleet) -> None:
    name = fleet.create()
    for version in ("1.0.1", "1.0.2"):
        fleet.platform.replace_os_disk(name, fleet.images(version), {}, key=fleet.key(), fence=1)
    status = fleet.status(name)
    assert (status.image_version, status.kept_version) == ("1.0.2", "1.0.1")


def test_replace_starts_a_machine_that_was_off(fleet: Fleet) -> None:
    name = fleet.create()
    fleet.platform.stop(name, key=fleet.key(), fence=1)
    fleet.platform.replace_os_disk(name, fleet.images("1.0.1"), {}, key=fleet.key(), fence=1)
    assert fleet.look(name)["version"] == "1.0.1"


def test_switch_back_returns_and_switching_twice_is_where_it_began(fleet: Fleet) -> None:
    name = fleet.create()
    address = fleet.status(name).address
    fleet.platform.replace_os_disk(name, fleet.images("1.0.1"), {}, key=fleet.key(), fence=1)
    fleet.look(name, version="1.0.1")
    for version, kept in (("1.0.0", "1.0.1"), ("1.0.1", "1.0.0")):
        starts = fleet.look(name)["starts"]
        fleet.platform.switch_back(name, key=fleet.key(), fence=1)
        fleet.look(name, version=version, starts=starts + 1)
        status = fleet.status(name)
        assert (status.image_version, status.kept_version) == (version, kept)
        assert status.address == address


def test_switch_back_without_a_kept_disk_touches_nothing(fleet: Fleet) -> None:
    name = fleet.create()
    error = raised(lambda: fleet.platform.switch_back(name, key=fleet.key(), fence=1))
    assert error.kind is DriverErrorKind.NO_KEPT_DISK
    assert (fleet.status(name).power, fleet.status(name).boots) == (Power.RUNNING, 1)


@pytest.mark.parametrize("fault", ["digest", "missing"])
def test_a_bad_image_leaves_the_machine_running(fleet: Fleet, fault: str) -> None:
    name = fleet.create()
    good = fleet.images("1.0.1")
    bad = {
        "digest": replace(good, sha256="0" * 64),
        "missing": replace(good, sha256="1" * 64, path=good.path.with_name("nowhere.img")),
    }[fault]
    before = fleet.status(name)
    error = raised(lambda: fleet.platform.replace_os_disk(name, bad, {}, key=fleet.key(), fence=1))
    assert error.kind is DriverErrorKind.BAD_IMAGE
    assert not error.retryable
    assert fleet.status(name) == before
    assert fleet.look(name)["version"] == "1.0.0"


def test_creating_from_a_bad_image_leaves_no_machine(fleet: Fleet) -> None:
    spec = fleet.spec()
    bad = replace(spec, image=replace(spec.image, sha256="0" * 64))
    error = raised(lambda: fleet.platform.create(bad, key=fleet.key(), fence=1))
    assert error.kind is DriverErrorKind.BAD_IMAGE
    assert fleet.status(spec.name).power is Power.ABSENT


# -- delete -----------------------------------------------------------------------------------


def test_delete_forgets_the_machine_and_is_done_when_done(fleet: Fleet) -> None:
    name = fleet.create()
    fleet.platform.delete(name, key=fleet.key(), fence=1)
    assert fleet.status(name).power is Power.ABSENT
    fleet.platform.delete(name, key=fleet.key(), fence=1)
    fleet.platform.delete("never-was", key=fleet.key(), fence=1)


def test_a_machine_made_again_under_the_name_starts_empty(fleet: Fleet) -> None:
    name = fleet.create()
    fleet.platform.delete(name, key=fleet.key(), fence=7)
    fleet.create(name=name)  # Fence 1: fences belong to the uuid.
    assert fleet.look(name)["starts"] == 1


def test_a_name_in_use_is_not_given_to_another_uuid(fleet: Fleet) -> None:
    name = fleet.create()
    error = raised(lambda: fleet.platform.create(fleet.spec(name=name), key=fleet.key(), fence=2))
    assert (error.kind, error.retryable) == (DriverErrorKind.FAILED, False)
    assert fleet.look(name)["starts"] == 1


# -- keys and fences --------------------------------------------------------------------------


def test_a_repeated_key_does_no_second_work(fleet: Fleet) -> None:
    spec = fleet.spec()
    image = fleet.images("1.0.1")
    calls: list[Callable[[Platform], None]] = [
        lambda platform: platform.create(spec, key="k1", fence=1),
        lambda platform: platform.restart(spec.name, key="k2", fence=1),
        lambda platform: platform.replace_os_disk(spec.name, image, {}, key="k3", fence=1),
        lambda platform: platform.switch_back(spec.name, key="k4", fence=1),
        lambda platform: platform.stop(spec.name, key="k5", fence=1),
        lambda platform: platform.start(spec.name, key="k6", fence=1),
    ]
    for call in calls:
        call(fleet.platform)
        after = fleet.status(spec.name)
        fleet.reopen()
        call(fleet.platform)
        assert fleet.status(spec.name) == after
    calls[4](fleet.platform)  # The stop of before the start.
    assert fleet.status(spec.name).power is Power.RUNNING


def test_a_late_repetition_of_create_does_not_bring_a_deleted_machine_back(fleet: Fleet) -> None:
    spec = fleet.spec()
    fleet.platform.create(spec, key="k-create", fence=1)
    fleet.platform.delete(spec.name, key="k-delete", fence=1)
    fleet.platform.create(spec, key="k-create", fence=1)
    assert fleet.status(spec.name).power is Power.ABSENT


def test_an_older_fence_is_refused_and_touches_nothing(fleet: Fleet) -> None:
    name = fleet.create()
    fleet.platform.restart(name, key=fleet.key(), fence=5)
    before = fleet.status(name)
    image = fleet.images("1.0.1")
    verbs: list[Callable[[], None]] = [
        lambda: fleet.platform.stop(name, key=fleet.key(), fence=4),
        lambda: fleet.platform.restart(name, key=fleet.key(), fence=4),
        lambda: fleet.platform.replace_os_disk(name, image, {}, key=fleet.key(), fence=4),
        lambda: fleet.platform.switch_back(name, key=fleet.key(), fence=4),
        lambda: fleet.platform.delete(name, key=fleet.key(), fence=4),
    ]
    assert [raised(verb).kind for verb in verbs] == [DriverErrorKind.FENCED] * len(verbs)
    assert fleet.status(name) == before
    fleet.platform.stop(name, key=fleet.key(), fence=5)
    assert fleet.status(name).power is Power.OFF


def test_a_failed_key_is_answered_alike_until_a_new_attempt(fleet: Fleet) -> None:
    name = fleet.create()
    good = fleet.images("1.0.1")
    bad = replace(good, sha256="0" * 64)
    key = fleet.key()
    for image in (bad, good):
        error = raised(
            lambda image=image: fleet.platform.replace_os_disk(  # type: ignore[misc]
                name, image, {}, key=key, fence=1
            )
        )
        assert error.kind is DriverErrorKind.BAD_IMAGE
    fleet.platform.replace_os_disk(name, good, {}, key=key, fence=2)
    assert fleet.look(name, version="1.0.1")["starts"] == 2


# -- the caller dies --------------------------------------------------------------------------


@pytest.mark.parametrize(("case", "verb", "step"), STEPS, indirect=["case"])
def test_a_call_killed_at_any_step_and_repeated_ends_in_the_same_place(
    fleet: Fleet, verb: str, step: str
) -> None:
    """The same end, the same number of boots, and no less data than an undisturbed call."""
    spec = fleet.spec()
    platform = fleet.platform
    if verb != "create":
        platform.create(spec, key=fleet.key(), fence=1)
        platform.replace_os_disk(spec.name, fleet.images("1.0.1"), {}, key=fleet.key(), fence=1)
        fleet.look(spec.name, version="1.0.1")
    if verb == "start":
        platform.stop(spec.name, key=fleet.key(), fence=1)
    image = fleet.images("1.0.2")
    calls: dict[str, Callable[[Platform], None]] = {
        "create": lambda p: p.create(spec, key="killed", fence=2),
        "replace_os_disk": lambda p: p.replace_os_disk(spec.name, image, {}, key="killed", fence=2),
        "switch_back": lambda p: p.switch_back(spec.name, key="killed", fence=2),
        "restart": lambda p: p.restart(spec.name, key="killed", fence=2),
        "start": lambda p: p.start(spec.name, key="killed", fence=2),
        "stop": lambda p: p.stop(spec.name, key="killed", fence=2),
        "delete": lambda p: p.delete(spec.name, key="killed", fence=2),
    }
    ends = {
        "create": (Power.RUNNING, "1.0.0", "", 1),
        "replace_os_disk": (Power.RUNNING, "1.0.2", "1.0.1", 3),
        "switch_back": (Power.RUNNING, "1.0.0", "1.0.1", 3),
        "restart": (Power.RUNNING, "1.0.1", "1.0.0", 3),
        "start": (Power.RUNNING, "1.0.1", "1.0.0", 3),
        "stop": (Power.OFF, "1.0.1", "1.0.0", 2),
        "delete": (Power.ABSENT, "", "", 0),
    }
    fleet.killed_at(step, calls[verb])
    fleet.reopen()
    calls[verb](fleet.platform)
    status = fleet.status(spec.name)
    end = (status.power, status.image_version, status.kept_version, status.boots)
    assert end == ends[verb]
    if status.power is Power.RUNNING:
        assert fleet.look(spec.name)["version"] == status.image_version


def test_a_machine_outlives_the_server_that_made_it(fleet: Fleet) -> None:
    if "create:succeeded" not in fleet.case.steps.get("create", ()):
        pytest.skip(f"{fleet.case.name} lives in the server's own process")
    spec = fleet.spec()
    fleet.killed_at(
        "create:succeeded", lambda platform: platform.create(spec, key=fleet.key(), fence=1)
    )
    fleet.reopen()
    assert fleet.look(spec.name)["starts"] == 1
    wait_for(fleet.case, "still running", lambda: fleet.status(spec.name).power is Power.RUNNING)
