"""What changes when a person asks for another try, or says that they have seen it?

Rule: a person's word outranks every pause and no promise: it never gives up a video that may still
come, and never fetches again what was removed on purpose, unless that is said too.
"""

from collections.abc import Mapping
from typing import Final

from daemon.rules.lifecycle import IN_PLACE, Cause, State
from daemon.rules.task import Task
from daemon.rules.verdict import NOTHING_ON_DISK, Terms, Verdict

# A person's wish, too, is tried before the task can be lost again.
_UNPROVED: Mapping[str, object] = {
    "refusal_proofs": 0,
    "refusal_proved_at": None,
    "questions": 0,
    "questioned_at": None,
}


def judge_retry(task: Task, now: int, terms: Terms, *, force: bool = False) -> Verdict | None:
    """A person wants another try, now. None: it was pruned on purpose, and `force` is not set.

    With a key the provider is asked, for its answer is newer than any link at hand.
    """
    if task.has_local_id:
        sent = {"reason": None, "message": None, "forgotten_at": None, "fetch_at": now}
        return Verdict(Cause.REOPENED, sent)
    again: dict[str, object] = {
        "refusals": 0,
        "failures": 0,
        "denials": 0,
        "forgotten_at": None,
        **_UNPROVED,
    }
    if terms.has_key:
        again |= {"ask_at": now, "asked_since": now, "ask_pause_ms": 0}
    if task.state == State.PRUNED:
        gone = {**NOTHING_ON_DISK, "sha256": None, "path": None, "stored_at": None}
        return Verdict(Cause.REOPENED, {**again, **gone}) if force else None
    if task.state in IN_PLACE:
        return Verdict(None, {"fetch_at": task.fetch_at and now})
    if task.state == State.WANTED:
        return Verdict(Cause.REOPENED, {**again, "fetch_at": now})
    if task.link is not None and not terms.has_key:
        return Verdict(Cause.LINKED, {**again, "fetch_at": now, "reason": None, "message": None})
    return Verdict(Cause.REOPENED, {**again, "reason": None, "message": None})


_FORGETTABLE: Final = (State.EXPECTED, State.FAILED, State.LOST)


def judge_forget(task: Task, now: int) -> Verdict | None:
    """A person has seen it: nobody is asked any more. None: a video may still be on its way."""
    if task.state not in _FORGETTABLE:
        return None
    return Verdict(
        None, {"forgotten_at": task.forgotten_at or now, "ask_at": None, "fetch_at": None}
    )
