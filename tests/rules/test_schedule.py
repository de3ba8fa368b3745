"""Attempts slow a task down and never end it; only proof does."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from daemon.rules.schedule import (
    API_FAILURES,
    EAGER_MS,
    HOUR,
    KEYLESS_GRACE_MS,
    MINUTE,
    PROOF_APART_MS,
    QUESTIONS_PROVE,
    REFRESH_MS,
    REFUSALS_PROVE,
    RETRY_AFTER_LIMIT_MS,
    SECOND,
    SPOILED_LIMIT,
    SPOILED_PAUSE_MS,
    UNKNOWN_AGE_MS,
    UNKNOWN_APART_MS,
    UNKNOWN_LIMIT,
    Pace,
    Tally,
    backoff,
    count_warnings,
    pause_download,
    pause_gate,
    pause_question,
    prove_lost,
    prove_unknown,
)

FIRST, LIMIT = 2 * SECOND, 15 * MINUTE
PACE = Pace(3 * MINUTE, 30 * SECOND, 6 * HOUR)
DAY = 24 * HOUR
NOW = 1_766_000_000_000

attempts = st.integers(1, 10**9)
lucks = st.floats(0, 1, exclude_max=True)
LUCKS = (0.0, 0.25, 0.5, 0.75, 0.999_999)


def test_the_numbers_of_the_design() -> None:
    """The spans that the design names, in milliseconds."""
    assert (SECOND, MINUTE, HOUR) == (1_000, 60_000, 3_600_000)
    assert (REFRESH_MS, SPOILED_PAUSE_MS, PROOF_APART_MS) == (21_600_000,) * 3
    assert (UNKNOWN_APART_MS, UNKNOWN_AGE_MS, KEYLESS_GRACE_MS) == (600_000, 3_600_000, 86_400_000)
    assert (SPOILED_LIMIT, UNKNOWN_LIMIT, REFUSALS_PROVE, QUESTIONS_PROVE) == (3, 3, 3, 2)


@given(attempts, lucks)
def test_backoff_is_bounded(attempt: int, luck: float) -> None:
    """After any number of failures the pause lies between half the first and the limit."""
    assert FIRST // 2 <= backoff(attempt, FIRST, LIMIT, luck) <= LIMIT


@given(attempts, lucks, st.integers(2, HOUR), st.integers(2, HOUR))
def test_no_configuration_makes_a_hot_loop(
    attempt: int, luck: float, first_ms: int, limit_ms: int
) -> None:
    """Whatever first pause and limit are set, there is a pause, and it keeps to the limit."""
    assert 1 <= backoff(attempt, first_ms, limit_ms, luck) <= limit_ms


def test_backoff_is_full_jitter() -> None:
    """The ceiling doubles from the first pause to the limit, and luck takes its share of it."""
    ceilings = [2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900]
    for attempt, seconds in enumerate(ceilings, 1):
        for luck in LUCKS:
            expected = max(SECOND, int(seconds * SECOND * luck))
            assert backoff(attempt, FIRST, LIMIT, luck) == expected, (attempt, luck)


@given(attempts, lucks, st.none() | st.integers(0, 10**15))
def test_the_host_cannot_shorten_or_stretch_a_pause(
    attempt: int, luck: float, wish_ms: int | None
) -> None:
    """A wish counts where it is longer than our own pause, and up to an hour."""
    own = backoff(attempt, FIRST, LIMIT, luck)
    pause = pause_download(attempt, FIRST, LIMIT, luck, wish_ms)
    if wish_ms is None:
        assert pause == own
    else:
        assert pause == max(own, min(wish_ms, HOUR))
    assert RETRY_AFTER_LIMIT_MS == HOUR


def ask_for(span_ms: int, luck: float, pace: Pace = PACE) -> list[int]:
    """Return the pauses between the questions about a task that never gets ready."""
    pauses, asked_for = [0], 0
    while True:
        pause = pause_question(pace, asked_for, pauses[-1], luck)
        asked_for += pause
        if asked_for > span_ms:
            return pauses[1:]
        pauses.append(pause)


@pytest.mark.parametrize("luck", LUCKS)
def test_eager_at_first(luck: float) -> None:
    """For twenty minutes a task is asked about every 30 s, however lucky we are."""
    assert ask_for(EAGER_MS, luck) == [30 * SECOND] * 40
    assert EAGER_MS == 20 * MINUTE


@pytest.mark.parametrize("luck", LUCKS)
def test_slower_from_then_on(luck: float) -> None:
    """Later every pause is half as long again, give or take a fifth, up to six hours."""
    pauses = ask_for(14 * DAY, luck)[40:]
    grown = 1.5 * (0.8 + 0.4 * luck)
    for before, after in zip([30 * SECOND, *pauses], pauses, strict=False):
        assert after == pytest.approx(min(6 * HOUR, before * grown), abs=1)
    assert pauses[-1] == 6 * HOUR


@pytest.mark.parametrize("luck", LUCKS)
def test_questions_of_fourteen_days(luck: float) -> None:
    """One silent task costs some hundred questions in its life, and is asked about to the end."""
    pauses = ask_for(14 * DAY, luck)
    assert 100 <= len(pauses) <= 130
    assert sum(pauses) > 14 * DAY - 6 * HOUR


@given(st.integers(0, 15 * DAY), st.integers(0, 6 * HOUR), lucks)
def test_every_pause_is_one(asked_for_ms: int, last_ms: int, luck: float) -> None:
    """Whatever came before, a pause is at least the interval and at most the limit."""
    assert 30 * SECOND <= pause_question(PACE, asked_for_ms, last_ms, luck) <= 6 * HOUR


def test_a_short_first_pause_counts() -> None:
    """An operator who wants the first question early does not wait longer for the second."""
    assert pause_question(Pace(5 * SECOND, 30 * SECOND, 6 * HOUR), 0, 0, 0.5) == 5 * SECOND
    assert pause_question(PACE, 10 * DAY, 0, 0.5) == 30 * SECOND


def test_a_clock_that_was_set_back_is_eager() -> None:
    """A negative time of asking is no reason to wait."""
    assert pause_question(PACE, -DAY, 6 * HOUR, 0.5) == 30 * SECOND


@given(st.lists(st.integers(0, 3 * DAY), max_size=50), st.integers(1, DAY))
def test_a_tally_counts_what_lies_apart(moments: list[int], apart_ms: int) -> None:
    """However often it happens, it counts once in a span, and each count is a real event."""
    tally, counted = Tally(0, None), list[int]()
    for moment in sorted(moments):
        before, tally = tally, tally.another(moment, apart_ms)
        if tally != before:
            assert tally == Tally(before.count + 1, moment)
            counted.append(moment)
    assert tally.count == len(counted)
    assert all(late - early >= apart_ms for early, late in pairwise(counted))
    assert bool(counted) == bool(moments)


def test_a_tally_at_its_edge() -> None:
    """The span itself is enough, a millisecond less is not; a clock set back proves nothing."""
    tally = Tally(1, NOW)
    assert tally.another(NOW + 6 * HOUR - 1, 6 * HOUR) is tally
    assert tally.another(NOW + 6 * HOUR, 6 * HOUR) == Tally(2, NOW + 6 * HOUR)
    assert tally.another(NOW - DAY, 6 * HOUR) is tally


@pytest.mark.parametrize(
    ("count", "age_ms", "proved"),
    [
        (0, None, False),
        (3, None, False),
        (2, DAY, False),
        (3, HOUR - 1, False),
        (3, HOUR, True),
        (9, 20 * MINUTE, False),
        (9, DAY, True),
    ],
)
def test_unknown_by_proof(count: int, age_ms: int | None, *, proved: bool) -> None:
    """Three denials, the last of them an hour after adoption."""
    last_at = None if age_ms is None else NOW + age_ms
    assert prove_unknown(Tally(count, last_at), NOW) is proved


@example(past_ms=-1, link_known=False, has_key=True, refusals=3, questions=2)
@example(past_ms=0, link_known=False, has_key=True, refusals=0, questions=2)
@example(past_ms=-1, link_known=True, has_key=False, refusals=3, questions=0)
@example(past_ms=0, link_known=True, has_key=False, refusals=3, questions=0)
@example(past_ms=DAY - 1, link_known=False, has_key=False, refusals=0, questions=0)
@example(past_ms=DAY, link_known=False, has_key=False, refusals=0, questions=0)
@given(
    past_ms=st.integers(-DAY, 2 * DAY),
    link_known=st.booleans(),
    has_key=st.booleans(),
    refusals=st.integers(0, 4),
    questions=st.integers(0, 3),
)
def test_lost_by_proof(
    *, past_ms: int, link_known: bool, has_key: bool, refusals: int, questions: int
) -> None:
    """Past the deadline: three refusals and two questions, whichever of them can be had."""
    lost = prove_lost(
        NOW + past_ms,
        NOW,
        link_known=link_known,
        has_key=has_key,
        refusals=refusals,
        questions=questions,
    )
    if past_ms < 0:
        assert not lost
    elif has_key:
        assert lost == (questions >= 2 and (refusals >= 3 or not link_known))
    elif link_known:
        assert lost == (refusals >= 3)
    else:
        assert lost == (past_ms >= DAY)


@pytest.mark.parametrize(
    ("name", "seconds"),
    [
        ("key", [60, 120, 300, 600, 600]),
        ("credits", [600, 600]),
        ("rate", [10, 20, 40, 80, 160, 300, 300]),
        ("maintenance", [300, 300]),
        ("api", [30, 60, 120, 240, 480, 600, 600]),
        ("disk", [10, 10]),
    ],
)
def test_gates_open_again(name: str, seconds: list[int]) -> None:
    """A gate lets a probe through after a pause that grows to its last value."""
    closings = [pause_gate(name, closing) for closing in range(1, len(seconds) + 1)]
    assert closings == [pause * SECOND for pause in seconds]
    assert pause_gate(name, 10**6) == seconds[-1] * SECOND


def test_one_bad_call_shuts_nothing() -> None:
    """Calls pause only after several failures in a row."""
    assert API_FAILURES > 1


@pytest.mark.parametrize(
    ("left", "due"),
    [(72 * HOUR + 1, 0), (72 * HOUR, 1), (24 * HOUR + 1, 1), (24 * HOUR, 2), (-HOUR, 2)],
)
def test_a_deadline_is_warned_of_twice(left: int, due: int) -> None:
    """At 72 and at 24 hours."""
    assert count_warnings(1_000 * HOUR, 1_000 * HOUR + left) == due


def test_a_gate_of_a_host_is_one_of_a_kind() -> None:
    """Its pauses double from half a minute to ten."""
    pauses = [pause_gate("host:files.example.com", closings) for closings in range(1, 8)]
    assert pauses == [30_000, 60_000, 120_000, 240_000, 480_000, 600_000, 600_000]
