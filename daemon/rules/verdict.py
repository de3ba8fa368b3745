"""What follows from an answer of the provider, from a failed download, from waiting in vain?

Rule: a task, an event and the time go in, a `Verdict` comes out: the cause of a move or none, and
the columns that change with it. The stations only carry it to the store.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from daemon.rules.dialect import Outcome
from daemon.rules.failure import Hindered, Reason, Refused, Spoiled, StepFailed, Trouble
from daemon.rules.lifecycle import IN_PLACE, Cause, State
from daemon.rules.notice import Answer, Evidence, Notice
from daemon.rules.schedule import (
    MINUTE,
    PROOF_APART_MS,
    REFRESH_MS,
    SPOILED_LIMIT,
    SPOILED_PAUSE_MS,
    UNKNOWN_APART_MS,
    Pace,
    Tally,
    backoff,
    pause_download,
    pause_question,
    prove_lost,
    prove_unknown,
)
from daemon.rules.task import Task, Tidings

CREDITS_PAUSE_MS: Final = 5 * MINUTE
"""A question refused for want of credits: buying some takes a person."""
NOTHING_ON_DISK: Final[Mapping[str, object]] = {
    "spans": "",
    "size_bytes": None,
    "validator": None,
}
"""The columns of a task whose partial file is worth nothing."""
_GATED = (Outcome.KEY, Outcome.RATE, Outcome.MAINTENANCE)


@dataclass(frozen=True, slots=True)
class Terms:
    """How patient we are: the configuration as the rules need it."""

    pace: Pace
    retry_first_ms: int
    retry_limit_ms: int
    has_key: bool
    """Whether anything can be asked at all."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What happens to a task; `doubted`: a file without confirmation met a contrary answer."""

    cause: Cause | None
    changes: Mapping[str, object] = field(default_factory=dict)
    doubted: bool = False


def judge_callback(
    notice: Notice, now: int, *, trusted: bool, has_key: bool, retention_ms: int
) -> Tidings:
    """Decide what a callback brings to the ledger, whatever the task's state is there.

    Not `trusted` (`callback.trust = "confirm"`), it makes the question due and nothing else; its
    link is kept as a hint for the case that nobody ever answers.
    """
    asks_at = now if has_key else None
    task_id, deadline_at = notice.task_id, now + retention_ms
    if trusted and notice.evidence is Evidence.SUCCESS:
        refresh_at = now + REFRESH_MS if has_key else None
        return Tidings(task_id, Cause.LINKED, now, deadline_at, refresh_at, link=notice.link)
    if trusted and notice.evidence is Evidence.FAILURE:
        return Tidings(
            *(task_id, Cause.DECLINED, now, deadline_at, None),
            reason=notice.reason,
            message=notice.message,
            code=notice.code,
        )
    hint = None if trusted else notice.link
    return Tidings(task_id, Cause.HINTED, now, deadline_at, asks_at, hint=hint)


def wants_fresh_link(task: Task, answer: Answer) -> bool:
    """Whether the provider named a link again that the host refused."""
    link = None if answer.notice is None else answer.notice.link
    return task.state == State.EXPECTED and task.refusals > 0 and link == task.link is not None


def judge_answer(
    task: Task,
    answer: Answer,
    now: int,
    terms: Terms,
    luck: float,
    *,
    fresh_link: str | None = None,
) -> Verdict:
    """Decide what the provider's answer about `task` means for it.

    `fresh_link` is a short-lived twin of the link that it names, for the next attempt.
    """
    verdict = _judge_answer(task, answer, now, terms, luck, fresh_link)
    if task.forgotten_at is None or "forgotten_at" in verdict.changes:
        return verdict
    # It was forgotten while the question was on its way.
    return Verdict(verdict.cause, {**verdict.changes, "ask_at": None}, verdict.doubted)


def _judge_answer(
    task: Task, answer: Answer, now: int, terms: Terms, luck: float, fresh_link: str | None
) -> Verdict:
    pause = pause_question(terms.pace, now - (task.asked_since or now), task.ask_pause_ms, luck)
    if answer.outcome is Outcome.ANSWERED and answer.notice is not None:
        notice = answer.notice
        if notice.evidence is Evidence.SUCCESS and notice.link is not None:
            verdict = _judge_link(task, notice.link, fresh_link, now, terms, luck)
        elif task.state in IN_PLACE:
            verdict = _judge_contradiction(task, now, pause)
        else:
            verdict = _judge_notice(task, notice, now, pause)
        known: dict[str, object] = {"answered_at": now, "unanswered_since": None, "denials": 0}
        known |= {"audio_id": notice.audio_id or task.audio_id}
    elif answer.outcome is Outcome.UNKNOWN:
        if task.state in IN_PLACE:
            verdict = _judge_contradiction(task, now, pause)
        else:
            verdict = _judge_denial(task, answer, now, pause, terms)
        known = {"answered_at": now, "unanswered_since": None}
    else:
        since = now if task.unanswered_since is None else task.unanswered_since
        if answer.outcome in _GATED:
            # A gate holds the question back for all tasks, so this one simply stays due.
            return Verdict(None, {"unanswered_since": since, "ask_at": now})
        if answer.outcome is Outcome.CREDITS:
            pause = max(pause, CREDITS_PAUSE_MS)
        return Verdict(None, {"unanswered_since": since, **_ask_again(now, pause)})
    return Verdict(verdict.cause, {**known, **verdict.changes}, verdict.doubted)


def _ask_again(now: int, pause: int) -> dict[str, object]:
    return {"ask_at": now + pause, "ask_pause_ms": pause}


def _judge_contradiction(task: Task, now: int, pause: int) -> Verdict:
    """The provider names no link for a film that is here. No answer removes it.

    Whether a link was genuine is asked until the deadline; after that nobody knows it any more.
    """
    if task.unconfirmed and now < task.deadline_at:
        return Verdict(None, _ask_again(now, pause), doubted=True)
    return Verdict(None, {"ask_at": None}, doubted=bool(task.unconfirmed))


def _judge_notice(task: Task, notice: Notice, now: int, pause: int) -> Verdict:
    """The provider knows the task and names no link."""
    in_vain = {**_count_in_vain(task, now), **_ask_again(now, pause)}
    if task.unconfirmed and task.state == State.WANTED:
        return Verdict(None, in_vain, doubted=True)
    failed = notice.evidence is Evidence.FAILURE
    if task.state == State.WANTED:
        return Verdict(None, {**in_vain, **_ask_again(now, REFRESH_MS)})
    if failed and _was_linked(task):
        # Evidence of success never goes down.
        return Verdict(None, in_vain)
    if failed:
        return _judge_refusal_to_make(task, notice)
    if task.known_as_missing:
        return Verdict(Cause.KNOWN, {**in_vain, "reason": None, "message": None})
    if task.state == State.EXPECTED or now < task.deadline_at:
        return Verdict(None, in_vain)
    return Verdict(None, {"ask_at": None})


def _was_linked(task: Task) -> bool:
    return task.state == State.EXPECTED and task.link is not None and not task.unconfirmed


def _judge_refusal_to_make(task: Task, notice: Notice) -> Verdict:
    """The provider says that no video was made."""
    said: dict[str, object] = {
        "reason": notice.reason,
        "message": notice.message,
        "provider_code": notice.code,
        "ask_at": None,
    }
    if task.state == State.EXPECTED:
        return Verdict(Cause.DECLINED, said)
    if task.known_as_missing:
        return Verdict(None, said)
    return Verdict(None, {"ask_at": None})


def _judge_link(
    task: Task, link: str, fresh_link: str | None, now: int, terms: Terms, luck: float
) -> Verdict:
    if task.state in IN_PLACE:
        if task.unconfirmed and not _is_same_place(link, task.link):
            # The file that is here came from somewhere else: who answers does not vouch for it.
            return _judge_contradiction(task, now, task.ask_pause_ms or REFRESH_MS)
        return Verdict(None, {"unconfirmed": 0, "ask_at": None})
    changes: dict[str, object] = {
        "unconfirmed": 0,
        "link": link,
        "fresh_link": fresh_link,
        "ask_at": now + REFRESH_MS,
        "ask_pause_ms": 0,
        "forgotten_at": None,
    }
    if task.unconfirmed and link != task.link:
        # The bytes at hand came from a link that a stranger may have invented.
        changes |= NOTHING_ON_DISK
    # A lost task that is revived has to be tried before it can be lost again.
    fresh = link != task.link or task.state == State.LOST
    if fresh:
        changes |= {"refusals": 0, "refusal_proofs": 0, "refusal_proved_at": None, "failures": 0}
    elif task.refusals:
        changes |= _count_question(task, now)
    if task.state == State.WANTED:
        if fresh:
            changes["fetch_at"] = now
        return Verdict(None, changes)
    pause = 0 if fresh else _pause_refused(task.refusals, terms, luck)
    changes |= {"fetch_at": now + pause, "reason": None, "message": None, "provider_code": None}
    return Verdict(Cause.LINKED, changes)


def _is_same_place(link: str, other: str | None) -> bool:
    """Compare links without their queries, which are signed anew for each answer."""
    return other is None or link.partition("?")[0] == other.partition("?")[0]


def _pause_refused(refusals: int, terms: Terms, luck: float) -> int:
    """The same link again: links come back, so it is tried again, with growing pauses."""
    return backoff(refusals, terms.retry_first_ms, terms.retry_limit_ms, luck) if refusals else 0


def _judge_denial(task: Task, answer: Answer, now: int, pause: int, terms: Terms) -> Verdict:
    tally = Tally(task.denials, task.denied_at).another(now, UNKNOWN_APART_MS)
    changes: dict[str, object] = {
        "denials": tally.count,
        "denied_at": tally.last_at,
        **_count_in_vain(task, now),
        **_ask_again(now, pause),
    }
    if task.unconfirmed and task.state == State.WANTED:
        return Verdict(None, changes, doubted=True)
    if task.state == State.EXPECTED:
        if not _was_linked(task) and prove_unknown(tally, task.created_at):
            said = {"reason": Reason.UNKNOWN_TASK, "message": answer.message}
            return Verdict(
                Cause.UNKNOWN, {**changes, **said, **_ask_again(now, terms.pace.limit_ms)}
            )
        return Verdict(None, changes)
    if task.state == State.WANTED:
        return Verdict(None, {**changes, **_ask_again(now, REFRESH_MS)})
    if now < task.deadline_at:
        return Verdict(None, {**changes, **_ask_again(now, terms.pace.limit_ms)})
    return Verdict(None, {**changes, "ask_at": None})


def _count_question(task: Task, now: int) -> dict[str, object]:
    """Count a question that brought no working link, once the deadline has passed."""
    if now < task.deadline_at:
        return {}
    tally = Tally(task.questions, task.questioned_at).another(now, PROOF_APART_MS)
    return {"questions": tally.count, "questioned_at": tally.last_at}


def _count_in_vain(task: Task, now: int) -> dict[str, object]:
    """Count a question that brought no link at all, once the deadline has passed.

    It refuses the link that was given up, too: the provider names it no more, so nobody tries it,
    and a third refusal would be waited for in vain.
    """
    counted = _count_question(task, now)
    if counted and task.state == State.EXPECTED and task.link is not None:
        counted |= _count_refusal(task, now)
    return counted


def _count_refusal(task: Task, now: int) -> dict[str, object]:
    tally = Tally(task.refusal_proofs, task.refusal_proved_at).another(now, PROOF_APART_MS)
    return {"refusal_proofs": tally.count, "refusal_proved_at": tally.last_at}


def judge_failure(task: Task, failure: StepFailed, now: int, terms: Terms, luck: float) -> Verdict:
    """Decide what a failed download step means; the claim ends with it."""
    said: dict[str, object] = {
        "claimed_at": None,
        "reason": failure.reason,
        "message": failure.message,
    }
    match failure:
        case Hindered():
            # Only the claim of a wanted task was counted as an attempt.
            attempts = max(0, task.attempts - (task.state == State.WANTED))
            return Verdict(None, {**said, "attempts": attempts, "fetch_at": now})
        case Refused() | Spoiled(reason=Reason.NOT_A_VIDEO, sha256=None):
            # No SHA-256: its first bytes were enough to see that the link leads to no film.
            if isinstance(failure, Spoiled):
                said |= NOTHING_ON_DISK
            return _judge_refused_link(task, said, now, terms, luck)
        case Spoiled():
            said |= NOTHING_ON_DISK
            return _judge_spoiled(task, failure, said, now, terms, luck)
        case _:
            wish = failure.retry_after if isinstance(failure, Trouble) else None
            pause = pause_download(
                task.failures + 1,
                terms.retry_first_ms,
                terms.retry_limit_ms,
                luck,
                None if wish is None else int(wish * 1000),
            )
            return Verdict(None, {**said, "failures": task.failures + 1, "fetch_at": now + pause})


def _judge_refused_link(
    task: Task, said: dict[str, object], now: int, terms: Terms, luck: float
) -> Verdict:
    refusals = task.refusals + 1
    changes = {**said, "refusals": refusals, "fresh_link": None, **_count_refusal(task, now)}
    if not terms.has_key:
        pause = _pause_refused(refusals, terms, luck)
        return Verdict(None, {**changes, "fetch_at": now + pause})
    due_now = {"ask_at": now, "asked_since": now, "ask_pause_ms": 0, "unanswered_since": now}
    return Verdict(Cause.LINK_REFUSED, {**changes, **due_now})


def _judge_spoiled(
    task: Task, failure: Spoiled, said: dict[str, object], now: int, terms: Terms, luck: float
) -> Verdict:
    """The third time that the same bad bytes came, a new link or validator is waited for."""
    same = failure.sha256 is not None and failure.sha256 == task.spoiled_sha256
    spoils, failures = task.spoils + 1 if same else 1, task.failures + 1
    changes = {
        **said,
        "spoils": spoils,
        "spoiled_sha256": failure.sha256,
        "failures": failures,
    }
    if spoils < SPOILED_LIMIT:
        pause = backoff(failures, terms.retry_first_ms, terms.retry_limit_ms, luck)
        return Verdict(None, {**changes, "fetch_at": now + pause})
    changes |= {"fetch_at": now + SPOILED_PAUSE_MS}
    if terms.has_key:
        changes |= {"ask_at": now, "asked_since": now}
    return Verdict(None, changes)


def judge_silence(task: Task, now: int) -> Verdict | None:
    """Nobody answered for `callback.trust_link_after`: try the link at hand.

    A link that the provider once told needs no mark; one that only a callback told gets it. None
    when there is no link, or when the task has moved on meanwhile.
    """
    link = task.hint if task.link is None else task.link
    if task.state != State.EXPECTED or link is None:
        return None
    return Verdict(
        Cause.UNANSWERED,
        {
            "link": link,
            "unconfirmed": 1 if task.link is None else task.unconfirmed,
            "fetch_at": now,
            "unanswered_since": now,
        },
    )


def judge_deadline(task: Task, now: int, *, has_key: bool) -> Verdict | None:
    """Return the end of a task whose deadline passed and that is proved unobtainable, else None."""
    if task.state not in {State.EXPECTED, State.WANTED} or task.claimed_at is not None:
        return None
    lost = prove_lost(
        now,
        task.deadline_at,
        # Without a key nobody tries a link again that was given up while there was one.
        link_known=task.link is not None and (has_key or task.state == State.WANTED),
        has_key=has_key,
        refusals=task.refusal_proofs,
        questions=task.questions,
    )
    if not lost:
        return None
    return Verdict(Cause.EXPIRED, {"reason": Reason.DEADLINE, "ask_at": None})
