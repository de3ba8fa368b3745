"""Who makes progress, and who has stopped: what the watchdog is fed by.

Rule: a loop says by its beats that it goes on, and says when it rests, waiting for somebody else. A
beat that is missing is a fault in here, which a restart may cure; a provider, a host or a disk in
trouble is none. Beats go to the pulse of the process, by the name of the asyncio task; where there
is none, as in a test of one station, nobody listens.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

BEAT_SECONDS: Final = 120.0
"""The longest that a loop works between two beats: a question with its time-outs, a sweep."""
STEP_SECONDS: Final = 900.0
"""The longest that a download does without a beat: hashing the largest film on a slow disk."""

_current: ContextVar["Pulse | None"] = ContextVar("_current", default=None)


class Pulse:
    """Until when each loop need not beat again, by the name of its task."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._good_until: dict[str, float] = {}
        self.lag_seconds = 0.0
        """How much too late the loop woke up when that was looked at last, every half a minute."""

    def count(self, good_for_seconds: float | None) -> None:
        """Note a beat of the current task; None: nothing is expected of it."""
        task = asyncio.current_task()
        name = "" if task is None else task.get_name()
        if good_for_seconds is None:
            self._good_until.pop(name, None)
        else:
            self._good_until[name] = self._clock() + good_for_seconds

    def excuse(self, seconds: float) -> None:
        """Give everybody more time: the whole process stood still."""
        self._good_until = {name: until + seconds for name, until in self._good_until.items()}

    def late(self) -> list[str]:
        """Return who should have beaten by now."""
        now = self._clock()
        return sorted(name for name, until in self._good_until.items() if until < now)


def listen(pulse: Pulse) -> None:
    """Let the tasks that are made from here on beat for this pulse."""
    _current.set(pulse)


def beat(good_for_seconds: float = BEAT_SECONDS) -> None:
    """Say that the current task goes on, and beats again before this is over."""
    pulse = _current.get()
    if pulse is not None:
        pulse.count(good_for_seconds)


def rest() -> None:
    """Expect nothing of the current task."""
    pulse = _current.get()
    if pulse is not None:
        pulse.count(None)


@contextmanager
def resting() -> Iterator[None]:
    """Expect nothing of the current task meanwhile: it waits for work, or for somebody outside."""
    rest()
    yield
    beat()
