"""Runs a coroutine and cancels it at chosen suspensions, however deep inside they are.

Rule: a suspension is the moment at which the event loop gets control; it is counted where the task
hands its future to the loop, so none is missed. What was cancelled has to end cancelled.
"""

import asyncio
import types
from collections.abc import Coroutine, Generator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, TypeVar

from tests.campaigns.campaign import PromiseBroken

END_SECONDS: Final = 20.0
"""A cancelled step that takes longer hangs."""

T = TypeVar("T")


class Cut(Enum):
    """When, within a suspension, the cancellation comes."""

    EARLY = "early"
    """At once: what is waited for has hardly begun."""
    MIDWAY = "midway"
    """A few turns of the loop later: threads and sockets are at work."""
    LATE = "late"
    """What was waited for is done, and the task has not heard of it."""


@dataclass(slots=True)
class Course:
    """How a run went."""

    suspensions: int = 0
    felt: int = 0
    """Cancellations that arrived in the coroutine."""
    result: object = None
    ended: bool = False
    """Whether it came to its end, because nothing cancelled it or it was done before."""


async def run_cut(work: Coroutine[Any, Any, T], cuts: Mapping[int, Cut]) -> Course:
    """Run `work` as a task, cancelled at the suspensions with these numbers (1 is the first).

    Raises:
        PromiseBroken: it hangs, swallows the cancellation, or answers it with another error.
    """
    course = Course()

    async def step() -> T:
        return await _drive(work, cuts, course)

    task = asyncio.create_task(step(), name="stepped")
    await asyncio.wait({task}, timeout=END_SECONDS)
    if not task.done():
        task.cancel()
        raise PromiseBroken(f"it hangs after it was cancelled at {_tell(cuts)}")
    if task.cancelled():
        if not course.felt:
            raise PromiseBroken("it ended cancelled, and nobody had cancelled it")
        return course
    failure = task.exception()
    if failure is not None:
        raise PromiseBroken(f"cancelled at {_tell(cuts)}, it failed: {failure!r}") from failure
    if course.felt:
        raise PromiseBroken(f"the cancellation at {_tell(cuts)} was swallowed")
    course.ended, course.result = True, task.result()
    return course


def _tell(cuts: Mapping[int, Cut]) -> str:
    return ", ".join(f"suspension {number} ({cut.value})" for number, cut in sorted(cuts.items()))


@types.coroutine
def _drive(
    work: Coroutine[Any, Any, T], cuts: Mapping[int, Cut], course: Course
) -> Generator[Any, Any, T]:
    task = asyncio.current_task()
    assert task is not None
    failure: BaseException | None = None
    while True:
        try:
            awaited = work.send(None) if failure is None else work.throw(failure)
        except StopIteration as end:
            result: T = end.value
            return result
        course.suspensions += 1
        _cancel(task, awaited, cuts.get(course.suspensions))
        try:
            yield awaited
        except GeneratorExit:
            work.close()
            raise
        except BaseException as caught:  # noqa: BLE001 - it is handed on
            course.felt += isinstance(caught, asyncio.CancelledError)
            failure = caught
        else:
            failure = None


def _cancel(
    task: "asyncio.Task[Any]", awaited: "asyncio.Future[Any] | None", cut: Cut | None
) -> None:
    if cut is None:
        return
    if cut is Cut.EARLY or awaited is None:
        # The task is running, so it is cancelled the moment that it suspends.
        task.cancel()
    elif cut is Cut.LATE:
        # Called before the task's own wake-up, which is registered after this.
        awaited.add_done_callback(lambda _: task.cancel())
    else:
        loop = asyncio.get_running_loop()
        loop.call_soon(lambda: loop.call_soon(lambda: loop.call_soon(task.cancel)))
