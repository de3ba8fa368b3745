"""What holds in the ledger after every step, whatever happened before.

Rule: laws look at rows, histories and what the model remembers, and change nothing.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from daemon.rules.lifecycle import TRANSITIONS, Cause, State
from daemon.rules.schedule import QUESTIONS_PROVE, REFUSALS_PROVE, UNKNOWN_LIMIT
from daemon.rules.task import Step, Task
from tests.campaigns.campaign import PromiseBroken

HELD: Final = (State.VERIFIED, State.STORED, State.DONE)
ON_ITS_WAY: Final = (State.WANTED, State.VERIFIED, State.STORED)
SAFE: Final = (*ON_ITS_WAY, State.DONE, State.PRUNED)


@dataclass(slots=True)
class Facts:
    """What really happened, as the model knows it."""

    acked: Counter[str] = field(default_factory=Counter)
    """Callbacks that were committed, by task."""
    proved: set[str] = field(default_factory=set)
    """Tasks of which there is evidence of success that the daemon trusts."""
    declined: set[str] = field(default_factory=set)
    """Tasks of which somebody said, in a way that the daemon trusts, that no video was made."""
    claims: set[str] = field(default_factory=set)
    """Tasks that a worker of the present process has in hand."""
    lost_without_key: set[str] = field(default_factory=set)
    """Tasks that were declared lost while nobody could be asked."""
    has_key: bool = True


def uphold(tasks: Sequence[Task], histories: Mapping[str, Sequence[Step]], facts: Facts) -> None:
    """Raise PromiseBroken when a law is broken."""
    rows = {task.task_id: task for task in tasks}
    for task_id, count in facts.acked.items():
        _hold(rows.get(task_id), task_id in rows, "acknowledged and not recorded")
        _hold(rows[task_id], rows[task_id].callbacks == count, f"{count} callbacks were taken")
    claimed = {task.task_id for task in tasks if task.claimed_at is not None}
    _hold(None, claimed == facts.claims, f"claimed {claimed}, in hand {facts.claims}")
    paths = Counter(task.path for task in tasks if task.path is not None)
    _hold(None, max(paths.values(), default=1) == 1, f"one path for two: {paths}")
    for task in tasks:
        _uphold_one(task, facts)
        _uphold_history(task, histories.get(task.task_id, ()))


def _uphold_one(task: Task, facts: Facts) -> None:
    keyless = task.task_id in facts.lost_without_key
    if task.state in HELD:
        whole = None not in (task.path, task.size_bytes, task.sha256)
        _hold(task, whole, "finished without path, size or digest")
    if task.task_id in facts.proved:
        gone = task.state == State.LOST and is_proved_lost(task, keyless=keyless)
        _hold(task, task.state in (*SAFE, State.EXPECTED) or gone, "given up against evidence")
    elif task.state == State.LOST:
        _hold(task, is_proved_lost(task, keyless=keyless), "lost without proof")
    if task.state == State.FAILED:
        told = task.task_id in facts.declined or task.known_as_missing
        _hold(task, told, "failed by nobody's word")
        denied = not task.known_as_missing or task.denials >= UNKNOWN_LIMIT
        _hold(task, denied, "disowned before it was denied three times")
    if task.forgotten_at is None:
        _uphold_waking(task, facts)


def is_proved_lost(task: Task, *, keyless: bool = False) -> bool:
    """Say whether a lost task has its proofs; `keyless`: nobody could be asked at that time."""
    asked = keyless or task.questions >= QUESTIONS_PROVE
    # A link that was given up while there was a key is no link where nobody can be asked.
    refused = task.link is None or keyless or task.refusal_proofs >= REFUSALS_PROVE
    return asked and refused and task.updated_at >= task.deadline_at


def _uphold_waking(task: Task, facts: Facts) -> None:
    """Nothing sleeps that nobody will ever wake."""
    if task.state in ON_ITS_WAY:
        _hold(task, task.fetch_at is not None, "nobody will fetch it")
    if task.state == State.EXPECTED and facts.has_key:
        _hold(task, task.ask_at is not None, "nobody will ask about it")
    if task.unconfirmed and task.state == State.WANTED and facts.has_key:
        _hold(task, task.ask_at is not None, "nobody will ask whether its link is true")


def _uphold_history(task: Task, steps: Sequence[Step]) -> None:
    _hold(task, bool(steps) and steps[-1].after == task.state, f"its history ends in {steps[-1:]}")
    before: str | None = None
    for step in steps:
        _hold(task, step.before == before, f"its history has a gap before {step}")
        known = None if step.before is None else State(step.before)
        moves = TRANSITIONS[Cause(step.cause)]
        _hold(task, moves.get(known) == step.after, f"no such move: {step}")
        before = step.after


def _hold(task: Task | None, fact: bool, told: str) -> None:  # noqa: FBT001 - it is the point
    if not fact:
        shown = "" if task is None else f"\n{_show(task)}"
        raise PromiseBroken(f"{told}{shown}")


def _show(task: Task) -> str:
    values = {name: getattr(task, name) for name in Task.__dataclass_fields__}
    return ", ".join(f"{name}={value!r}" for name, value in values.items() if value)
