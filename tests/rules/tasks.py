"""Tasks, answers and terms for the tests of `rules/verdict`."""

from dataclasses import replace
from typing import Any

from daemon.rules.dialect import Outcome
from daemon.rules.failure import Reason, Refused, Spoiled, StepFailed
from daemon.rules.lifecycle import State, move
from daemon.rules.notice import Answer, Evidence, Notice
from daemon.rules.schedule import HOUR, MINUTE, SECOND, Pace
from daemon.rules.task import COLUMNS, Task
from daemon.rules.verdict import Terms, Verdict

NOW = 1_766_000_000_000
DAY = 24 * HOUR
LINK = "https://tempfile.aiquickdraw.com/r/0b1c2d3e4f.mp4"
FRESH = "https://tempfile.aiquickdraw.com/r/fresh.mp4"
TERMS = Terms(Pace(3 * MINUTE, 30 * SECOND, 6 * HOUR), 2 * SECOND, 15 * MINUTE, has_key=True)
KEYLESS = replace(TERMS, has_key=False)
IN_PLACE = (State.VERIFIED, State.STORED, State.DONE, State.PRUNED)

_BLANK: dict[str, Any] = {
    **dict.fromkeys(COLUMNS),
    "id": 1,
    "task_id": "task1",
    "cause": "adopted",
    "source": "track",
    "version": 1,
    "created_at": NOW - DAY,
    "asked_since": NOW - DAY,
    "updated_at": NOW,
    "deadline_at": NOW + 13 * DAY,
    "spans": "",
    **dict.fromkeys(("unconfirmed", "ask_pause_ms", "denials", "questions", "attempts"), 0),
    **dict.fromkeys(("failures", "refusals", "refusal_proofs", "spoils", "callbacks"), 0),
}


def task(state: State = State.EXPECTED, **fields: Any) -> Task:
    """Return a task, a day old and thirteen days before its deadline."""
    return Task(**{**_BLANK, "state": state, **fields})


def late(state: State = State.EXPECTED, **fields: Any) -> Task:
    """Return a task whose deadline passed a minute ago."""
    return task(state, deadline_at=NOW - MINUTE, **fields)


def notice(evidence: Evidence, link: str | None = None) -> Notice:
    """Return what a message about the task says."""
    failed = evidence is Evidence.FAILURE
    return Notice(
        task_id="task1",
        evidence=evidence,
        link=link,
        reason=Reason.GENERATE_FAILED if failed else None,
        message="said",
        code=500 if failed else 200,
    )


def answered(evidence: Evidence, link: str | None = None) -> Answer:
    """Return an answer about the task."""
    return Answer(Outcome.ANSWERED, "said", 200, notice(evidence, link))


SUCCESS = answered(Evidence.SUCCESS, LINK)
PENDING = answered(Evidence.PENDING)
FAILURE = answered(Evidence.FAILURE)
UNKNOWN = Answer(Outcome.UNKNOWN, "not known", 200)
WITHOUT_LINK = [PENDING, FAILURE, UNKNOWN]


def apply(about: Task, verdict: Verdict) -> Task:
    """Return the task as the store would leave it."""
    state = about.state if verdict.cause is None else move(State(about.state), verdict.cause)
    return replace(about, state=state, **verdict.changes)  # type: ignore[arg-type]


WANTED = task(State.WANTED, link=LINK, claimed_at=NOW - MINUTE, attempts=3)

REFUSALS: list[StepFailed] = [
    Refused(Reason.LINK_REFUSED, "HTTP 404"),
    Refused(Reason.ADDRESS_REFUSED, "private"),
    Spoiled(Reason.NOT_A_VIDEO, "a page"),
]

SPOILED = [
    Spoiled(Reason.DAMAGED, "boxes overlap", "aa"),
    Spoiled(Reason.TRUNCATED, "cut", "aa"),
    Spoiled(Reason.NOT_A_VIDEO, "no video track", "aa"),
]
