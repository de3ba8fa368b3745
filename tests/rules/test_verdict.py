"""What a message of the provider means for a task."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from daemon.rules.dialect import Outcome
from daemon.rules.lifecycle import Cause, State
from daemon.rules.notice import Answer, Evidence
from daemon.rules.schedule import HOUR, MINUTE, REFRESH_MS, SECOND
from daemon.rules.task import Task
from daemon.rules.verdict import Verdict, judge_answer, judge_callback, judge_deadline
from tests.rules.tasks import (
    DAY,
    FAILURE,
    FRESH,
    IN_PLACE,
    LINK,
    NOW,
    PENDING,
    SUCCESS,
    TERMS,
    UNKNOWN,
    WITHOUT_LINK,
    answered,
    apply,
    late,
    notice,
    task,
)


def judge(about: Task, answer: Answer, luck: float = 0.5) -> Verdict:
    """Judge an answer that came now."""
    return judge_answer(about, answer, NOW, TERMS, luck)


def missing(**fields: object) -> Task:
    """Return a task that failed because the provider denied it."""
    return task(State.FAILED, reason="unknown_task", ask_pause_ms=6 * HOUR, **fields)


# Callbacks


@pytest.mark.parametrize("evidence", Evidence)
@pytest.mark.parametrize("has_key", [True, False])
def test_an_untrusted_callback_is_a_hint(evidence: Evidence, *, has_key: bool) -> None:
    """Under `confirm` nothing in a callback does more than make the question due."""
    tidings = judge_callback(
        notice(evidence, LINK), NOW, trusted=False, has_key=has_key, retention_ms=14 * DAY
    )
    assert (tidings.cause, tidings.hint, tidings.link) == (Cause.HINTED, LINK, None)
    assert (tidings.reason, tidings.message, tidings.code) == (None, None, None)
    assert tidings.ask_at == (NOW if has_key else None)
    assert tidings.deadline_at == NOW + 14 * DAY


@pytest.mark.parametrize("has_key", [True, False])
def test_a_trusted_callback_counts(*, has_key: bool) -> None:
    """A trusted callback brings its link, or its failure, or makes the question due."""

    def read(evidence: Evidence, link: str | None) -> tuple[object, ...]:
        tidings = judge_callback(
            notice(evidence, link), NOW, trusted=True, has_key=has_key, retention_ms=DAY
        )
        assert tidings.hint is None
        return tidings.cause, tidings.link, tidings.ask_at, tidings.reason, tidings.code

    refresh_at = NOW + 6 * HOUR if has_key else None
    now = NOW if has_key else None
    assert read(Evidence.SUCCESS, LINK) == (Cause.LINKED, LINK, refresh_at, None, None)
    assert read(Evidence.FAILURE, None) == (Cause.DECLINED, None, None, "generate_failed", 500)
    assert read(Evidence.NONE, LINK) == (Cause.HINTED, None, now, None, None)


# Answers with a link


@pytest.mark.parametrize("state", [State.EXPECTED, State.FAILED, State.LOST])
def test_a_link_makes_the_task_wanted(state: State) -> None:
    """A confirmed link is fetched at once, also for a task that was given up."""
    verdict = judge(task(state, reason="deadline", denials=2, unanswered_since=NOW - DAY), SUCCESS)
    assert verdict.cause is Cause.LINKED
    assert not verdict.doubted
    expected = {"link": LINK, "fetch_at": NOW, "ask_at": NOW + 6 * HOUR, "ask_pause_ms": 0}
    expected |= {"unconfirmed": 0, "denials": 0, "answered_at": NOW, "unanswered_since": None}
    expected |= dict.fromkeys(("reason", "message", "provider_code"))
    assert verdict.changes.items() >= expected.items()


def test_a_fresh_link_replaces_the_old_one() -> None:
    """While bytes are missing, a new link is fetched at once and the old one's failures forgot."""
    stale = task(State.WANTED, link=LINK, refusals=4, refusal_proofs=2, failures=7, unconfirmed=1)
    verdict = judge(stale, answered(Evidence.SUCCESS, FRESH))
    assert verdict.cause is None
    expected = {"link": FRESH, "fetch_at": NOW, "refusals": 0, "failures": 0, "unconfirmed": 0}
    expected |= {"refusal_proofs": 0, "refusal_proved_at": None}
    assert verdict.changes.items() >= expected.items()


@pytest.mark.parametrize("state", [State.EXPECTED, State.WANTED, State.FAILED, State.LOST])
def test_bytes_of_a_stranger_are_dropped(state: State) -> None:
    """Bytes of a link that the provider replaces stay only when it had named that link, too."""
    held = {"link": LINK, "spans": "0-9", "size_bytes": 99, "validator": '"v1"'}
    for unconfirmed, link, kept in ((1, FRESH, False), (1, LINK, True), (0, FRESH, True)):
        before = task(state, unconfirmed=unconfirmed, **held)
        after = apply(before, judge(before, answered(Evidence.SUCCESS, link)))
        assert (after.spans, after.size_bytes, after.validator) == (
            ("0-9", 99, '"v1"') if kept else ("", None, None)
        )


def test_the_same_link_does_not_hurry_a_download() -> None:
    """A link that is known already leaves the pauses of its download alone."""
    verdict = judge(task(State.WANTED, link=LINK, failures=7, fetch_at=NOW + HOUR), SUCCESS)
    assert verdict.cause is None
    assert verdict.changes.keys().isdisjoint({"fetch_at", "failures", "refusals"})


@pytest.mark.parametrize(("refusals", "ceiling"), [(1, 2), (2, 4), (5, 32), (30, 900)])
def test_a_refused_link_is_tried_again_with_backoff(refusals: int, ceiling: int) -> None:
    """Links come back: the same link is tried again, after pauses that grow to the limit."""
    refused = task(link=LINK, refusals=refusals)
    verdict = judge(refused, SUCCESS, luck=0.999)
    assert verdict.cause is Cause.LINKED
    assert verdict.changes["fetch_at"] == NOW + int(ceiling * SECOND * 0.999)
    assert "refusals" not in verdict.changes
    assert judge(refused, answered(Evidence.SUCCESS, FRESH)).changes["fetch_at"] == NOW
    assert judge(task(link=LINK), SUCCESS).changes["fetch_at"] == NOW


def test_a_lost_task_that_is_revived_gets_its_chance() -> None:
    """The proofs against a lost task end with it, or it would be lost again untried."""
    lost = late(State.LOST, link=LINK, refusals=9, refusal_proofs=3, questions=2)
    verdict = judge(lost, SUCCESS)
    assert (verdict.cause, verdict.changes["fetch_at"]) == (Cause.LINKED, NOW)
    revived = apply(lost, verdict)
    assert judge_deadline(revived, NOW, has_key=True) is None


@pytest.mark.parametrize("state", IN_PLACE)
def test_a_link_for_a_finished_file_only_clears_the_mark(state: State) -> None:
    """A later success answer confirms the file that is there, and no one asks again."""
    for unconfirmed, link in ((1, f"{LINK}?signed=anew"), (1, LINK), (0, FRESH)):
        about = task(state, link=LINK, unconfirmed=unconfirmed)
        verdict = judge(about, answered(Evidence.SUCCESS, link))
        assert verdict.cause is None
        assert verdict.changes.items() >= {"unconfirmed": 0, "ask_at": None}.items()
        assert verdict.changes.keys().isdisjoint({"link", "fetch_at"})


@pytest.mark.parametrize("state", IN_PLACE)
def test_another_link_than_the_fetched_one_confirms_nothing(state: State) -> None:
    """The file came from a stranger's link: it stays, with its mark, and that is said."""
    verdict = judge(task(state, link=LINK, unconfirmed=1), answered(Evidence.SUCCESS, FRESH))
    assert (verdict.cause, verdict.doubted) == (None, True)
    assert verdict.changes["ask_at"] == NOW + REFRESH_MS
    assert verdict.changes.keys().isdisjoint({"unconfirmed", "link", "path", "fetch_at"})


# Answers without a link


def test_pending_asks_again() -> None:
    """A task that is not ready is asked about again, at the pace of the schedule."""
    verdict = judge(task(asked_since=NOW - MINUTE, ask_pause_ms=30 * SECOND), PENDING)
    assert verdict.cause is None
    expected = {"ask_at": NOW + 30 * SECOND, "ask_pause_ms": 30 * SECOND, "answered_at": NOW}
    assert verdict.changes.items() >= expected.items()


def test_failure_fails_an_expected_task() -> None:
    """The provider's word ends a task, with its reason, and ends the questions."""
    verdict = judge(task(), FAILURE)
    assert verdict.cause is Cause.DECLINED
    expected = {"reason": "generate_failed", "message": "said", "provider_code": 500}
    assert verdict.changes.items() >= {**expected, "ask_at": None}.items()


@pytest.mark.parametrize("answer", WITHOUT_LINK)
def test_success_never_goes_down(answer: Answer) -> None:
    """Once a link was known, no answer takes the video back."""
    denied: dict[str, Any] = {"denials": 5, "denied_at": NOW - HOUR, "link": LINK}
    assert judge(task(**denied), answer).cause is None
    for about in (task(State.WANTED, **denied), late(State.WANTED, **denied)):
        verdict = judge(about, answer)
        assert verdict.cause is None
        assert verdict.changes["ask_at"] == NOW + 6 * HOUR
        assert not verdict.doubted


def test_failure_after_an_unconfirmed_link_fails_the_task() -> None:
    """A link that only a callback told is no evidence of success."""
    assert judge(task(link=LINK, unconfirmed=1), FAILURE).cause is Cause.DECLINED


@pytest.mark.parametrize("answer", WITHOUT_LINK)
@pytest.mark.parametrize("state", [State.WANTED, *IN_PLACE])
def test_a_doubted_file_stays(state: State, answer: Answer) -> None:
    """A contrary answer leaves mark and file and is announced; the questions go on."""
    verdict = judge(task(state, link=LINK, unconfirmed=1, ask_pause_ms=HOUR), answer)
    assert (verdict.cause, verdict.doubted) == (None, True)
    assert verdict.changes["ask_at"] == NOW + HOUR * 1.5
    assert verdict.changes.keys().isdisjoint({"unconfirmed", "link", "path", "fetch_at"})


@pytest.mark.parametrize("answer", WITHOUT_LINK)
@pytest.mark.parametrize("state", IN_PLACE)
def test_questions_about_a_finished_file_end(state: State, answer: Answer) -> None:
    """A confirmed file needs no answer, and after the deadline nobody can confirm one."""
    assert judge(task(state), answer).changes["ask_at"] is None
    assert not judge(task(state), answer).doubted
    for about in (late(state, unconfirmed=1), task(state, unconfirmed=1, deadline_at=NOW)):
        assert judge(about, answer).changes["ask_at"] is None


@pytest.mark.parametrize("state", [State.EXPECTED, State.FAILED, State.LOST])
@pytest.mark.parametrize("answer", WITHOUT_LINK)
def test_there_is_no_doubt_without_a_file(state: State, answer: Answer) -> None:
    """A task whose unconfirmed link turned out dead is judged like any other."""
    verdict = judge(task(state, link=LINK, unconfirmed=1), answer)
    assert not verdict.doubted


def test_a_disowned_task_comes_back() -> None:
    """A task that the provider knows after all is expected again, whatever its mark says."""
    for unconfirmed in (0, 1):
        verdict = judge(missing(unconfirmed=unconfirmed), PENDING)
        assert verdict.cause is Cause.KNOWN
        assert verdict.changes.items() >= {"reason": None, "message": None, "denials": 0}.items()
        assert verdict.changes["ask_at"] is not None


def test_a_disowned_task_may_turn_out_failed() -> None:
    """The provider's own reason replaces `unknown_task`."""
    verdict = judge(missing(), FAILURE)
    assert verdict.cause is None
    assert verdict.changes.items() >= {"reason": "generate_failed", "ask_at": None}.items()


@pytest.mark.parametrize("reason", ["generate_failed", "deadline"])
def test_a_failed_task_keeps_its_reason(reason: str) -> None:
    """A second failure changes nothing but ends the questions."""
    verdict = judge(task(State.FAILED, reason=reason), FAILURE)
    assert verdict.cause is None
    assert verdict.changes["ask_at"] is None
    assert "reason" not in verdict.changes


@pytest.mark.parametrize("state", [State.FAILED, State.LOST])
def test_questions_about_what_was_given_up_end(state: State) -> None:
    """A task that ended is asked about until its deadline at most."""
    assert judge(task(state), PENDING).changes["ask_at"] is not None
    for about in (late(state), task(state, deadline_at=NOW)):
        for answer in WITHOUT_LINK:
            assert judge(about, answer).changes["ask_at"] is None


@pytest.mark.parametrize("answer", [SUCCESS, *WITHOUT_LINK])
def test_an_answer_ends_the_silence(answer: Answer) -> None:
    """Every answer about the task, also a denial, is one."""
    for state in State:
        changes = judge(task(state, unanswered_since=NOW - DAY), answer).changes
        assert changes.items() >= {"answered_at": NOW, "unanswered_since": None}.items()


@pytest.mark.parametrize(("told", "kept"), [("track-2", "track-2"), (None, "track-1")])
def test_the_track_is_remembered(told: str | None, kept: str) -> None:
    """The track's id is learned from an answer, and never forgotten by one."""
    answer = Answer(Outcome.ANSWERED, notice=replace(notice(Evidence.PENDING), audio_id=told))
    assert judge(task(audio_id="track-1"), answer).changes["audio_id"] == kept


# Answers that are none


@pytest.mark.parametrize("outcome", [Outcome.KEY, Outcome.RATE, Outcome.MAINTENANCE])
def test_a_gate_charges_no_task(outcome: Outcome) -> None:
    """A task whose question met a gate stays due, and its pace stays what it was."""
    for state in State:
        verdict = judge(task(state, ask_pause_ms=HOUR), Answer(outcome, "said"))
        assert verdict == Verdict(None, {"unanswered_since": NOW, "ask_at": NOW})


@pytest.mark.parametrize(
    ("outcome", "pause"),
    [
        (Outcome.TROUBLE, 30 * SECOND),
        (Outcome.ODD, 30 * SECOND),
        (Outcome.CREDITS, 5 * MINUTE),
    ],
)
def test_trouble_moves_nothing(outcome: Outcome, pause: int) -> None:
    """A call that failed says nothing about the task; the silence is counted from the first one."""
    for state in State:
        verdict = judge(task(state, unanswered_since=NOW - HOUR), Answer(outcome, "said", 404))
        expected = {"unanswered_since": NOW - HOUR, "ask_at": NOW + pause, "ask_pause_ms": pause}
        assert verdict == Verdict(None, expected)


# Denials


def test_denied_for_good() -> None:
    """Three denials ten minutes apart, the last an hour after adoption: there is no such task."""
    about, moment, counted = task(created_at=NOW, asked_since=NOW), NOW, []
    while True:
        verdict = judge_answer(about, UNKNOWN, moment, TERMS, 0.5)
        if verdict.cause is not None:
            break
        if verdict.changes["denials"] != about.denials:
            counted.append(moment - NOW)
        about = apply(about, verdict)
        assert about.ask_at is not None
        moment = about.ask_at
    assert verdict.cause is Cause.UNKNOWN
    assert all(later - early >= 10 * MINUTE for early, later in pairwise(counted))
    assert HOUR <= moment - NOW < 2 * HOUR
    expected = {"reason": "unknown_task", "message": "not known", "ask_at": moment + 6 * HOUR}
    assert verdict.changes.items() >= {**expected, "denied_at": moment}.items()


def test_an_answer_between_denials_starts_the_count_anew() -> None:
    """Denials count in a row."""
    denied: dict[str, Any] = {"created_at": NOW - DAY, "denials": 2, "denied_at": NOW - HOUR}
    assert judge(task(**denied), UNKNOWN).cause is Cause.UNKNOWN
    about = apply(task(**denied), judge(task(**denied), PENDING))
    assert judge(about, UNKNOWN).cause is None


def test_a_disowned_task_is_asked_about_until_its_deadline() -> None:
    """It is asked about at `poll.max_interval`, and no longer after its deadline."""
    verdict = judge(replace(missing(denials=3), ask_pause_ms=30 * SECOND), UNKNOWN)
    assert verdict.changes.items() >= {"ask_at": NOW + 6 * HOUR, "denials": 4}.items()
    gone = replace(missing(), deadline_at=NOW)
    assert judge(gone, UNKNOWN).changes.items() >= {"ask_at": None, "denials": 1}.items()
