"""What a person wishes for a task, and what a refused link is replaced with."""

from collections.abc import Mapping
from typing import Any

import pytest

from daemon.rules.dialect import Outcome
from daemon.rules.failure import Reason, Refused, StepFailed, Trouble
from daemon.rules.lifecycle import State
from daemon.rules.notice import Answer, Evidence
from daemon.rules.request import judge_forget, judge_retry
from daemon.rules.schedule import HOUR, MINUTE
from daemon.rules.task import Task
from daemon.rules.verdict import (
    Terms,
    judge_answer,
    judge_deadline,
    judge_failure,
    wants_fresh_link,
)
from tests.rules.tasks import (
    DAY,
    FRESH,
    IN_PLACE,
    KEYLESS,
    LINK,
    NOW,
    PENDING,
    REFUSALS,
    SUCCESS,
    TERMS,
    UNKNOWN,
    WANTED,
    answered,
    apply,
    late,
    task,
)

SHORT = f"{LINK}?pass=x"
LOCAL = "submit-01KAMV8Z3V9J6Q2W5X7Y8Z9ABC"
PROVED: dict[str, Any] = {
    "refusals": 9,
    "failures": 8,
    "denials": 3,
    "refusal_proofs": 3,
    "questions": 2,
    "refusal_proved_at": NOW - HOUR,
    "questioned_at": NOW - HOUR,
}
TRIED_ANEW: dict[str, object] = {
    **dict.fromkeys(("refusals", "failures", "denials", "refusal_proofs", "questions"), 0),
    **dict.fromkeys(("refusal_proved_at", "questioned_at", "forgotten_at")),
}
ASKED_NOW = {"ask_at": NOW, "asked_since": NOW, "ask_pause_ms": 0}


def retried(about: Task, terms: Terms = TERMS, *, force: bool = False) -> Task:
    """Return the task as a retry leaves it."""
    verdict = judge_retry(about, NOW, terms, force=force)
    assert verdict is not None
    return apply(about, verdict)


def fields(about: Task, names: Mapping[str, object]) -> dict[str, object]:
    """Return these columns of a task."""
    return {name: getattr(about, name) for name in names}


@pytest.mark.parametrize("state", [State.EXPECTED, State.FAILED, State.LOST])
def test_a_retry_asks_now_and_forgets_what_was_proved(state: State) -> None:
    """What somebody had forgotten, too; it cannot be lost again before it was tried."""
    before = late(state, link=LINK, reason="deadline", message="m", forgotten_at=NOW - 1, **PROVED)
    after = retried(before)
    assert (after.state, after.reason, after.message) == ("expected", None, None)
    assert fields(after, TRIED_ANEW) == TRIED_ANEW
    assert fields(after, ASKED_NOW) == ASKED_NOW
    assert judge_deadline(after, NOW, has_key=True) is None


@pytest.mark.parametrize("state", [State.EXPECTED, State.FAILED, State.LOST])
def test_without_a_key_a_retry_tries_the_link_at_hand(state: State) -> None:
    """And without a link it only waits again."""
    after = retried(late(state, link=LINK, reason="deadline", **PROVED), KEYLESS)
    assert (after.state, after.fetch_at, after.reason, after.ask_at) == ("wanted", NOW, None, None)
    assert fields(after, TRIED_ANEW) == TRIED_ANEW
    linkless = retried(late(state, forgotten_at=1), KEYLESS)
    assert (linkless.state, linkless.ask_at, linkless.forgotten_at) == ("expected", None, None)


@pytest.mark.parametrize("terms", [TERMS, KEYLESS])
def test_a_retry_of_what_is_wanted_fetches_now(terms: Terms) -> None:
    """With a key the provider is asked as well, for a newer link."""
    after = retried(task(State.WANTED, link=LINK, fetch_at=NOW + DAY, **PROVED), terms)
    assert (after.state, after.fetch_at) == ("wanted", NOW)
    assert after.ask_at == (NOW if terms.has_key else None)
    assert fields(after, TRIED_ANEW) == TRIED_ANEW


@pytest.mark.parametrize("state", [State.VERIFIED, State.STORED, State.DONE])
@pytest.mark.parametrize("force", [True, False])
def test_a_retry_of_what_is_in_place_only_hurries_its_step(state: State, *, force: bool) -> None:
    """The film stays, and is neither asked about nor fetched again."""
    for fetch_at, after in ((NOW + DAY, NOW), (None, None)):
        before = task(state, fetch_at=fetch_at, sha256="aa", path="/a", size_bytes=1)
        verdict = judge_retry(before, NOW, TERMS, force=force)
        assert verdict is not None
        assert (verdict.cause, verdict.changes) == (None, {"fetch_at": after})


@pytest.mark.parametrize("terms", [TERMS, KEYLESS])
def test_only_force_fetches_again_what_was_pruned(terms: Terms) -> None:
    """As if nothing of it had ever been here."""
    pruned = task(
        State.PRUNED,
        link=LINK,
        forgotten_at=1,
        size_bytes=9,
        spans="0-9",
        validator='"v"',
        sha256="aa",
        path="/a",
        stored_at=NOW - DAY,
    )
    assert judge_retry(pruned, NOW, terms) is None
    after = retried(pruned, terms, force=True)
    gone = dict.fromkeys(("size_bytes", "validator", "sha256", "path", "stored_at"))
    assert fields(after, gone) == gone
    assert (after.state, after.spans, after.forgotten_at) == ("expected", "", None)
    assert after.ask_at == (NOW if terms.has_key else None)


@pytest.mark.parametrize("terms", [TERMS, KEYLESS])
@pytest.mark.parametrize("state", [State.EXPECTED, State.FAILED, State.LOST])
def test_a_submit_without_an_id_is_never_asked_about(state: State, terms: Terms) -> None:
    """A retry opens it for sending; the provider knows nothing of a local id."""
    local = task(state, task_id=LOCAL, reason="out_of_credits", message="m", forgotten_at=1)
    assert local.has_local_id
    after = retried(local, terms)
    assert (after.state, after.reason, after.message) == ("expected", None, None)
    assert (after.ask_at, after.forgotten_at) == (None, None)
    assert after.next_attempt_at == NOW
    assert not task(task_id="0a1b").has_local_id


@pytest.mark.parametrize("state", State)
def test_what_can_be_forgotten(state: State) -> None:
    """Not what a video may still come of by itself, and not what is here."""
    before = task(state, ask_at=NOW + HOUR, fetch_at=NOW + HOUR)
    verdict = judge_forget(before, NOW)
    if state not in {State.EXPECTED, State.FAILED, State.LOST}:
        assert verdict is None
        return
    assert verdict is not None
    after = apply(before, verdict)
    assert (after.state, after.forgotten_at, after.ask_at) == (state, NOW, None)
    assert after.next_attempt_at is None


def test_forgetting_twice_keeps_the_first_time() -> None:
    """Who saw it first is who saw it."""
    verdict = judge_forget(task(forgotten_at=NOW - DAY), NOW)
    assert verdict is not None
    assert verdict.changes["forgotten_at"] == NOW - DAY


@pytest.mark.parametrize("state", [State.EXPECTED, State.FAILED, State.LOST])
def test_success_brings_back_what_was_forgotten(state: State) -> None:
    """Later evidence of success outranks the acknowledgement."""
    forgotten = task(state, forgotten_at=NOW - DAY)
    after = apply(forgotten, judge_answer(forgotten, SUCCESS, NOW, TERMS, 0.5))
    assert (after.state, after.forgotten_at) == ("wanted", None)


# Fresh links


REFUSED = task(link=LINK, refusals=1)


def test_a_fresh_link_is_wanted_for_the_same_refused_link_alone() -> None:
    """A new link is tried as it is, and one that nobody refused as well."""
    assert wants_fresh_link(REFUSED, SUCCESS)
    assert not wants_fresh_link(REFUSED, answered(Evidence.SUCCESS, FRESH))
    assert not wants_fresh_link(task(link=LINK), SUCCESS)
    assert not wants_fresh_link(task(refusals=1), PENDING)
    assert not wants_fresh_link(task(refusals=1), SUCCESS)
    for other in (PENDING, UNKNOWN, Answer(Outcome.TROUBLE)):
        assert not wants_fresh_link(REFUSED, other)
    for state in (State.WANTED, State.FAILED, State.LOST, *IN_PLACE):
        assert not wants_fresh_link(task(state, link=LINK, refusals=1), SUCCESS)


def test_a_fresh_link_is_used_by_the_next_attempt() -> None:
    """The trusted link stays what the provider named, and the refusals stay counted."""
    verdict = judge_answer(REFUSED, SUCCESS, NOW, TERMS, 0.5, fresh_link=SHORT)
    after = apply(REFUSED, verdict)
    assert (after.state, after.link, after.fresh_link) == ("wanted", LINK, SHORT)
    assert (after.next_link, after.refusals) == (SHORT, 1)
    # Its 20 minutes are not over by then.
    assert after.fetch_at is not None
    assert after.fetch_at <= NOW + 15 * MINUTE
    plain = apply(after, judge_answer(REFUSED, SUCCESS, NOW, TERMS, 0.5))
    assert (plain.fresh_link, plain.next_link) == (None, LINK)


def test_what_is_fetched_next() -> None:
    """The short-lived link, else the trusted one."""
    assert task(fresh_link=SHORT, link=LINK).next_link == SHORT
    assert task(link=LINK).next_link == LINK
    assert task().next_link == ""


@pytest.mark.parametrize("state", IN_PLACE)
def test_a_film_that_is_here_needs_no_fresh_link(state: State) -> None:
    """Nothing of it changes but the mark."""
    verdict = judge_answer(task(state), SUCCESS, NOW, TERMS, 0.5, fresh_link=SHORT)
    assert "fresh_link" not in verdict.changes


@pytest.mark.parametrize("terms", [TERMS, KEYLESS])
@pytest.mark.parametrize("failure", REFUSALS)
def test_a_refused_fresh_link_is_dropped(failure: StepFailed, terms: Terms) -> None:
    """The next attempt begins with the trusted link, or with a new fresh one."""
    held = apply(WANTED, judge_answer(REFUSED, SUCCESS, NOW, TERMS, 0.5, fresh_link=SHORT))
    after = apply(held, judge_failure(held, failure, NOW, terms, 0.5))
    assert (after.fresh_link, after.next_link) == (None, LINK)
    assert after.refusals == held.refusals + 1


def test_a_passing_trouble_keeps_the_fresh_link() -> None:
    """A cut connection says nothing about the link."""
    held = apply(WANTED, judge_answer(REFUSED, SUCCESS, NOW, TERMS, 0.5, fresh_link=SHORT))
    after = apply(held, judge_failure(held, Trouble(Reason.NETWORK, "cut"), NOW, TERMS, 0.5))
    assert after.next_link == SHORT
    refused = Refused(Reason.LINK_REFUSED, "HTTP 403")
    assert apply(after, judge_failure(after, refused, NOW, TERMS, 0.5)).next_link == LINK


@pytest.mark.parametrize("answer", [PENDING, UNKNOWN])
def test_an_answer_under_way_leaves_it_forgotten(answer: Answer) -> None:
    """The question was asked before somebody forgot the task; a film brings it back."""
    about = task(forgotten_at=NOW)
    after = apply(about, judge_answer(about, answer, NOW, TERMS, 0.5))
    assert (after.forgotten_at, after.ask_at) == (NOW, None)
    after = apply(about, judge_answer(about, SUCCESS, NOW, TERMS, 0.5))
    assert (after.forgotten_at, after.state) == (None, "wanted")
