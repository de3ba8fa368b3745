"""What waiting in vain and a person's wish mean for a task."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.rules.dialect import Outcome
from daemon.rules.failure import Hindered, Reason, Refused, Trouble
from daemon.rules.lifecycle import TRANSITIONS, Cause, State
from daemon.rules.notice import Answer, Evidence
from daemon.rules.request import judge_retry
from daemon.rules.schedule import HOUR
from daemon.rules.task import COLUMNS, Task
from daemon.rules.verdict import Verdict, judge_answer, judge_deadline, judge_failure, judge_silence
from tests.rules.tasks import (
    DAY,
    FRESH,
    IN_PLACE,
    KEYLESS,
    LINK,
    NOW,
    PENDING,
    REFUSALS,
    SPOILED,
    SUCCESS,
    TERMS,
    UNKNOWN,
    WANTED,
    WITHOUT_LINK,
    answered,
    apply,
    late,
    task,
)


def judge(about: Task, answer: Answer, luck: float = 0.5) -> Verdict:
    """Judge an answer that came now."""
    return judge_answer(about, answer, NOW, TERMS, luck)


# Silence


def test_a_hint_is_tried_when_nobody_answers() -> None:
    """A link that only a callback told is fetched, and the task is marked."""
    verdict = judge_silence(task(hint=LINK), NOW)
    assert verdict is not None
    assert verdict.cause is Cause.UNANSWERED
    expected = {"link": LINK, "unconfirmed": 1, "fetch_at": NOW, "unanswered_since": NOW}
    assert verdict.changes == expected


@pytest.mark.parametrize("unconfirmed", [0, 1])
def test_a_known_link_is_tried_again_when_nobody_answers(unconfirmed: int) -> None:
    """A link that the provider once told needs no mark, and goes before any hint."""
    verdict = judge_silence(task(link=LINK, hint=FRESH, unconfirmed=unconfirmed), NOW)
    assert verdict is not None
    assert verdict.changes.items() >= {"link": LINK, "unconfirmed": unconfirmed}.items()


def test_silence_about_anything_else_changes_nothing() -> None:
    """Without a link there is nothing to try, and a task that moved on is left alone."""
    assert judge_silence(task(), NOW) is None
    for state in set(State) - {State.EXPECTED}:
        assert judge_silence(task(state, link=LINK, hint=LINK), NOW) is None


# The deadline


PROVED = {"link": LINK, "refusal_proofs": 3, "questions": 2}


def test_lost_by_proof() -> None:
    """Past the deadline, with proof, an unclaimed task without a file is lost."""
    verdict = judge_deadline(late(State.WANTED, **PROVED), NOW, has_key=True)
    assert verdict == Verdict(Cause.EXPIRED, {"reason": Reason.DEADLINE, "ask_at": None})
    assert judge_deadline(late(questions=2), NOW, has_key=True) == verdict


@pytest.mark.parametrize("has_key", [True, False])
def test_no_proof_no_loss(*, has_key: bool) -> None:
    """Not before the deadline, not while somebody fetches, not once the file is there."""
    assert judge_deadline(task(State.WANTED, **PROVED), NOW, has_key=has_key) is None
    claimed = late(State.WANTED, **PROVED, claimed_at=NOW)
    assert judge_deadline(claimed, NOW, has_key=has_key) is None
    for state in set(State) - {State.EXPECTED, State.WANTED}:
        assert judge_deadline(late(state, **PROVED), NOW, has_key=has_key) is None
    for missing_proof in ({"refusal_proofs": 2}, {"questions": 1} if has_key else {"link": None}):
        about = late(State.WANTED, **{**PROVED, **missing_proof})
        assert judge_deadline(about, NOW, has_key=has_key) is None


def test_without_a_key_a_link_that_was_given_up_counts_as_none() -> None:
    """Nobody asks for it again, so the task is lost a day after its deadline."""
    about = late(link=LINK, refusal_proofs=1)
    assert judge_deadline(about, NOW, has_key=False) is None
    assert judge_deadline(about, about.deadline_at + DAY, has_key=False) is not None


@pytest.mark.parametrize("answer", [*WITHOUT_LINK, SUCCESS])
@pytest.mark.parametrize("link", [None, LINK])
def test_every_expected_task_ends(answer: Answer, link: str | None) -> None:
    """Whatever the provider goes on answering after the deadline, no task waits for ever.

    Every link that is named again is tried, and refused; the end comes within two days.
    """
    about, moment = late(link=link, refusals=1 if link else 0, ask_pause_ms=6 * HOUR), NOW
    while judge_deadline(about, moment, has_key=True) is None:
        about = apply(about, judge_answer(about, answer, moment, TERMS, 0.5))
        if about.state == State.FAILED:
            break
        if about.state == State.WANTED:
            failure = Refused(Reason.LINK_REFUSED, "HTTP 404")
            about = apply(about, judge_failure(about, failure, moment, TERMS, 0.5))
        moment += 6 * HOUR
        assert moment <= NOW + 2 * DAY


def test_questions_prove_nothing_before_the_deadline() -> None:
    """Only a question after the deadline counts, and one in six hours."""
    for answer in (PENDING, UNKNOWN, SUCCESS):
        early = task(refusals=1, link=LINK)
        assert "questions" not in judge(early, answer).changes
        for state in (State.EXPECTED, State.WANTED):
            due = task(state, refusals=1, link=LINK, deadline_at=NOW)
            assert judge(due, answer).changes["questions"] == 1
        first = apply(late(refusals=1, link=LINK), judge(late(refusals=1, link=LINK), answer))
        assert first.questions == 1
        soon = replace(first, state=State.EXPECTED)
        again = judge_answer(soon, answer, NOW + 6 * HOUR - 1, TERMS, 0.5)
        assert again.changes["questions"] == 1
        assert judge_answer(soon, answer, NOW + 6 * HOUR, TERMS, 0.5).changes["questions"] == 2


def test_an_answer_without_a_link_gives_the_old_one_up() -> None:
    """Past the deadline it counts as a refusal of the link that nobody tries any more."""
    for answer in (PENDING, UNKNOWN):
        changes = judge(late(link=LINK, refusals=1, refusal_proofs=1), answer).changes
        assert changes.items() >= {"refusal_proofs": 2, "refusal_proved_at": NOW}.items()
        for about in (task(link=LINK), late(), late(State.WANTED, link=LINK)):
            assert "refusal_proofs" not in judge(about, answer).changes


# What comes next


def test_next_attempt() -> None:
    """A task without a link waits for a question, every other one for its next download step."""
    for state in State:
        asks = state in {State.EXPECTED, State.FAILED, State.LOST}
        about = task(state, ask_at=NOW + HOUR, fetch_at=NOW + DAY)
        assert about.next_attempt_at == NOW + (HOUR if asks else DAY)


# A person


def test_retry_leaves_the_pruned_alone() -> None:
    """What the retention policy removed is not fetched again."""
    assert judge_retry(task(State.PRUNED), NOW, TERMS) is None


def test_retry_hurries_what_is_in_place() -> None:
    """A finishing step that waits runs now; what is done is already safe."""
    assert judge_retry(task(State.DONE), NOW, TERMS) == Verdict(None, {"fetch_at": None})
    stored = task(State.STORED, fetch_at=NOW + HOUR)
    assert judge_retry(stored, NOW, TERMS) == Verdict(None, {"fetch_at": NOW})


@pytest.mark.parametrize("state", [State.EXPECTED, State.FAILED, State.LOST])
def test_retry_asks_now(state: State) -> None:
    """With a key the provider is asked, and nothing that went wrong before counts any more."""
    before = late(state, **PROVED, refusals=5, failures=5, denials=3, reason="deadline")
    verdict = judge_retry(before, NOW, TERMS)
    assert verdict is not None
    after = apply(before, verdict)
    assert (after.state, after.ask_at, after.reason) == (State.EXPECTED, NOW, None)
    assert judge_deadline(after, NOW, has_key=True) is None
    assert (after.refusals, after.failures, after.denials) == (0, 0, 0)


def test_retry_fetches_now() -> None:
    """A wanted task is fetched at once, with a key and without."""
    for terms in (TERMS, KEYLESS):
        verdict = judge_retry(replace(WANTED, fetch_at=NOW + HOUR, failures=9), NOW, terms)
        assert verdict is not None
        assert verdict.cause is Cause.REOPENED
        assert verdict.changes.items() >= {"fetch_at": NOW, "failures": 0}.items()
        assert ("ask_at" in verdict.changes) == terms.has_key


@pytest.mark.parametrize("state", [State.EXPECTED, State.FAILED, State.LOST])
def test_retry_without_a_key_uses_the_link_at_hand(state: State) -> None:
    """Without a key the known link is all there is; without one the task just waits again."""
    verdict = judge_retry(task(state, link=LINK), NOW, KEYLESS)
    assert verdict is not None
    assert (verdict.cause, verdict.changes["fetch_at"]) == (Cause.LINKED, NOW)
    verdict = judge_retry(task(state), NOW, KEYLESS)
    assert verdict is not None
    assert verdict.cause is Cause.REOPENED
    assert "ask_at" not in verdict.changes


# Everything


times = st.none() | st.integers(NOW - 30 * DAY, NOW)
counts = st.integers(0, 9)
tasks = st.builds(
    task,
    st.sampled_from(State),
    link=st.sampled_from((None, LINK, FRESH)),
    hint=st.sampled_from((None, LINK)),
    reason=st.sampled_from((None, "unknown_task", "deadline")),
    unconfirmed=st.integers(0, 1),
    created_at=st.integers(NOW - 30 * DAY, NOW),
    deadline_at=st.integers(NOW - 5 * DAY, NOW + 5 * DAY),
    ask_pause_ms=st.integers(0, 6 * HOUR),
    **dict.fromkeys(("asked_since", "unanswered_since", "denied_at", "fetch_at"), times),
    **dict.fromkeys(("questioned_at", "refusal_proved_at", "claimed_at"), times),
    **dict.fromkeys(("denials", "questions", "refusals", "refusal_proofs", "spoils"), counts),
    **dict.fromkeys(("failures", "attempts"), counts),
)
answers = st.sampled_from(
    [SUCCESS, *WITHOUT_LINK, answered(Evidence.NONE)]
    + [Answer(outcome, "said") for outcome in Outcome if outcome is not Outcome.UNKNOWN]
)
lucks = st.floats(0, 1, exclude_max=True)


@given(tasks, answers, lucks)
def test_no_answer_lets_a_task_fall_asleep(about: Task, answer: Answer, luck: float) -> None:
    """While a video may still come, every answer leaves a next question or a next download."""
    after = apply(about, judge(about, answer, luck))
    if after.state == State.EXPECTED:
        assert after.ask_at is not None
    if after.state == State.WANTED and about.state != State.WANTED:
        assert after.fetch_at is not None
        assert after.link is not None


@given(tasks, answers, lucks)
def test_every_verdict_can_be_committed(about: Task, answer: Answer, luck: float) -> None:
    """Whatever comes, the move is in the table, the columns exist, and the next step is later."""
    verdicts = [
        judge(about, answer, luck),
        judge_silence(about, NOW),
        judge_deadline(about, NOW, has_key=True),
        judge_retry(about, NOW, TERMS),
        judge_retry(about, NOW, KEYLESS),
    ]
    for failure in (*REFUSALS, *SPOILED, Trouble(Reason.NETWORK, "x"), Hindered(Reason.DISK, "x")):
        if about.state == State.WANTED:
            verdicts += [judge_failure(about, failure, NOW, TERMS, luck)]
            verdicts += [judge_failure(about, failure, NOW, KEYLESS, luck)]
    for verdict in verdicts:
        if verdict is None:
            continue
        assert verdict.changes.keys() <= set(COLUMNS)
        assert verdict.cause is None or about.state in TRANSITIONS[verdict.cause]
        after = apply(about, verdict)
        for due_at in (verdict.changes.get("ask_at"), verdict.changes.get("fetch_at")):
            assert due_at is None or NOW <= due_at <= NOW + 6 * HOUR  # type: ignore[operator]
        if about.state in IN_PLACE:
            assert after.state == about.state
