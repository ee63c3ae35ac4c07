"""What holds for the health state machine whatever the application does."""

from hypothesis import given
from hypothesis import strategies as st

from upkeep.agent.health import (
    Health,
    HealthState,
    Observation,
    ProbeProtocol,
    ProbeSettings,
    expire,
    judge,
    observe,
    start,
)

INITIALIZING = HealthState.INITIALIZING
SETTINGS = st.builds(
    ProbeSettings,
    protocol=st.sampled_from(ProbeProtocol),
    port=st.just(80),
    path=st.just("/"),
    number_of_probes=st.integers(1, 5),
    grace_period_s=st.sampled_from([0.0, 5.0, 30.0]),
    rich=st.booleans(),
)
OBSERVED = st.sampled_from([HealthState.HEALTHY, HealthState.UNHEALTHY, HealthState.UNKNOWN])
STEPS = st.lists(st.tuples(OBSERVED, st.floats(0, 20)), max_size=40)


def history(
    settings: ProbeSettings, steps: list[tuple[HealthState, float]]
) -> list[tuple[Health, float]]:
    now = 0.0
    health = start(settings, now=now)
    seen = [(health, now)]
    for state, pause in steps:
        now += pause
        health = observe(settings, health, Observation(state), now=now)
        seen.append((health, now))
    return seen


@given(SETTINGS, STEPS)
def test_initializing_is_never_entered_again(settings, steps) -> None:
    states = [health.state for health, _ in history(settings, steps)]
    after = [s for s in states if s is not INITIALIZING]
    assert states[len(states) - len(after) :] == after


@given(SETTINGS, STEPS)
def test_initializing_never_outlives_the_grace_period(settings, steps) -> None:
    for health, now in history(settings, steps):
        if settings.grace_period_s and now >= settings.grace_period_s:
            assert health.state is not INITIALIZING


@given(SETTINGS, STEPS)
def test_a_later_change_has_as_many_equal_observations_behind_it_as_asked(settings, steps) -> None:
    seen = history(settings, steps)
    for index in range(1, len(seen)):
        before, after = seen[index - 1][0], seen[index][0]
        if before.state in (INITIALIZING, after.state):
            continue
        last = [state for state, _ in steps[:index]][-settings.number_of_probes :]
        assert last == [after.state] * settings.number_of_probes


@given(SETTINGS, OBSERVED, STEPS)
def test_enough_equal_observations_always_decide(settings, state, steps) -> None:
    """Whatever came before, once the grace period is over."""
    settled = [*steps, (state, 30.0)] + [(state, 1.0)] * settings.number_of_probes
    assert history(settings, settled)[-1][0].state is state


@given(SETTINGS, STEPS)
def test_the_counter_stays_within_its_limit(settings, steps) -> None:
    for health, _ in history(settings, steps):
        assert 0 <= health.count <= settings.number_of_probes
        assert (health.count == 0) == (health.candidate is None)


@given(SETTINGS, STEPS, st.floats(0, 100))
def test_expiring_first_changes_nothing_that_the_next_probe_sees(settings, steps, pause) -> None:
    health, now = history(settings, steps)[-1]
    later = now + pause
    sighting = Observation(HealthState.HEALTHY)
    early = observe(settings, expire(settings, health, now=later), sighting, now=later)
    assert early == observe(settings, health, sighting, now=later)


@given(SETTINGS, st.booleans(), st.integers(0, 999), st.binary(max_size=200))
def test_no_answer_is_too_strange_to_judge(settings, answered, status, body) -> None:
    observation = judge(settings, answered=answered, status=status, body=body)
    assert observation.state is not INITIALIZING
    if observation.state is HealthState.UNKNOWN:
        assert settings.has_unknown
    if not answered:
        assert observation.state is not HealthState.HEALTHY
