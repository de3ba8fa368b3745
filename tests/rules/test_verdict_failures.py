"""What a failed download means for a task."""

from dataclasses import replace

import pytest

from daemon.rules.failure import Hindered, Reason, Refused, Spoiled, StepFailed, Trouble
from daemon.rules.lifecycle import Cause, State
from daemon.rules.notice import Answer, Evidence
from daemon.rules.schedule import HOUR, SECOND
from daemon.rules.task import Task
from daemon.rules.verdict import Terms, Verdict, judge_answer, judge_failure
from tests.rules.tasks import (
    FRESH,
    KEYLESS,
    NOW,
    PENDING,
    REFUSALS,
    SPOILED,
    SUCCESS,
    TERMS,
    WANTED,
    answered,
    apply,
    task,
)


def judge(about: Task, answer: Answer, luck: float = 0.5) -> Verdict:
    """Judge an answer that came now."""
    return judge_answer(about, answer, NOW, TERMS, luck)


def fail(about: Task, failure: StepFailed, terms: Terms = TERMS, luck: float = 0.999) -> Verdict:
    """Judge a failure that happened now."""
    verdict = judge_failure(about, failure, NOW, terms, luck)
    assert verdict.changes["claimed_at"] is None
    assert verdict.changes["reason"] == failure.reason
    assert verdict.changes["message"] == failure.message
    return verdict


@pytest.mark.parametrize(("failures", "ceiling"), [(0, 2), (1, 4), (8, 512), (9, 900), (99, 900)])
def test_trouble_slows_down(failures: int, ceiling: int) -> None:
    """Trouble is tried again after a growing pause, and the bytes stay."""
    verdict = fail(replace(WANTED, failures=failures), Trouble(Reason.NETWORK, "reset"))
    assert verdict.cause is None
    assert verdict.changes["failures"] == failures + 1
    assert verdict.changes["fetch_at"] == NOW + int(ceiling * SECOND * 0.999)
    assert verdict.changes.keys().isdisjoint({"spans", "validator", "refusals"})


@pytest.mark.parametrize(("wish", "pause"), [(0.0, 1), (90.5, 90.5), (3600, 3600), (86_400, 3600)])
def test_the_host_may_ask_for_patience(wish: float, pause: float) -> None:
    """`Retry-After` is honoured up to an hour, and never shortens our own pause."""
    verdict = fail(WANTED, Trouble(Reason.NETWORK, "busy", wish), luck=0.0)
    assert verdict.changes["fetch_at"] == NOW + pause * SECOND


def test_a_bare_failure_is_trouble() -> None:
    """A failure of no known class is tried again."""
    assert fail(WANTED, StepFailed(Reason.FINISH, "said")).changes["failures"] == 1


def test_our_own_disk_charges_no_attempt() -> None:
    """A full disk is nobody's fault: the attempt is taken back and the task stays due."""
    verdict = fail(WANTED, Hindered(Reason.DISK, "full"))
    assert verdict.cause is None
    assert verdict.changes.items() >= {"attempts": 2, "fetch_at": NOW}.items()
    assert verdict.changes.keys().isdisjoint({"failures", "spans", "refusals"})
    published = task(State.VERIFIED, attempts=3)
    assert fail(published, Hindered(Reason.DISK, "full")).changes["attempts"] == 3
    assert fail(task(State.WANTED), Hindered(Reason.DISK, "full")).changes["attempts"] == 0


@pytest.mark.parametrize("failure", REFUSALS, ids=lambda failure: failure.reason)
def test_a_refused_link_is_asked_about_at_once(failure: StepFailed) -> None:
    """A dead link, a forbidden one or one that leads to a page: a fresh one is asked for."""
    verdict = fail(replace(WANTED, ask_pause_ms=HOUR), failure)
    assert verdict.cause is Cause.LINK_REFUSED
    expected = {"ask_at": NOW, "asked_since": NOW, "ask_pause_ms": 0, "refusals": 1}
    expected |= {"refusal_proofs": 1, "unanswered_since": NOW}
    assert verdict.changes.items() >= expected.items()
    asked = judge(apply(WANTED, verdict), PENDING)
    assert asked.changes["ask_at"] == NOW + 30 * SECOND
    assert ("spans" in verdict.changes) == isinstance(failure, Spoiled)


@pytest.mark.parametrize("terms", [TERMS, KEYLESS])
def test_refusals_prove_something_six_hours_apart(terms: Terms) -> None:
    """However often a link is refused, that proves its death once in six hours."""
    failure = Refused(Reason.LINK_REFUSED, "HTTP 404")
    for ago, proofs in ((6 * HOUR - 1, 1), (6 * HOUR, 2)):
        refused = replace(WANTED, refusals=8, refusal_proofs=1, refusal_proved_at=NOW - ago)
        verdict = fail(refused, failure, terms)
        proved_at = NOW if proofs == 2 else NOW - ago
        expected = {"refusals": 9, "refusal_proofs": proofs, "refusal_proved_at": proved_at}
        assert verdict.changes.items() >= expected.items()


@pytest.mark.parametrize("failure", REFUSALS, ids=lambda failure: failure.reason)
def test_without_a_key_a_refused_link_is_tried_again(failure: StepFailed) -> None:
    """Where nobody can be asked, the same link is tried again with growing pauses."""
    for refusals, ceiling in ((0, 2), (3, 16), (20, 900)):
        verdict = fail(replace(WANTED, refusals=refusals), failure, KEYLESS)
        assert verdict.cause is None
        assert verdict.changes["fetch_at"] == NOW + int(ceiling * SECOND * 0.999)
        assert "ask_at" not in verdict.changes


@pytest.mark.parametrize("failure", SPOILED, ids=lambda failure: failure.reason)
def test_bad_content_is_fetched_anew(failure: Spoiled) -> None:
    """Bad bytes are dropped and fetched again from the start."""
    verdict = fail(replace(WANTED, failures=4), failure)
    assert verdict.cause is None
    expected = {"spoils": 1, "spoiled_sha256": "aa", "spans": "", "validator": None}
    expected |= {"size_bytes": None, "failures": 5}
    assert verdict.changes.items() >= expected.items()


@pytest.mark.parametrize("terms", [TERMS, KEYLESS])
@pytest.mark.parametrize("failure", SPOILED, ids=lambda failure: failure.reason)
def test_the_third_identical_bad_content_waits(failure: Spoiled, terms: Terms) -> None:
    """The same bad bytes three times: the next full fetch waits six hours, or for a new link."""
    verdict = fail(replace(WANTED, spoils=2, spoiled_sha256="aa"), failure, terms)
    assert verdict.changes["fetch_at"] == NOW + 6 * HOUR
    asked = {name: verdict.changes.get(name) for name in ("ask_at", "asked_since")}
    assert asked == dict.fromkeys(asked, NOW if terms.has_key else None)
    waiting = apply(WANTED, verdict)
    assert "fetch_at" not in judge(waiting, SUCCESS).changes
    assert judge(waiting, answered(Evidence.SUCCESS, FRESH)).changes["fetch_at"] == NOW


@pytest.mark.parametrize("sha256", [None, "bb"])
def test_bad_content_that_changes_slows_down_too(sha256: str | None) -> None:
    """A host that serves other nonsense every time is not fetched from in a hot loop."""
    spoiled = replace(WANTED, spoils=2, spoiled_sha256="aa", failures=9)
    verdict = fail(spoiled, Spoiled(Reason.DAMAGED, "boxes overlap", sha256))
    assert verdict.changes.items() >= {"spoils": 1, "spoiled_sha256": sha256}.items()
    assert verdict.changes["fetch_at"] == NOW + int(900 * SECOND * 0.999)
