"""An event loop whose clock jumps to the next timer, so that months pass in a minute.

Rule: time stands still while a thread works for the loop, and jumps only when nothing is ready.
"""

import asyncio
import selectors
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import aiosqlite  # noqa: TID251 - its thread is watched

REAL_SECONDS: Final = 0.5
"""The longest that one look at the selector takes while a thread works."""


class _Jumping(selectors.DefaultSelector):
    """A selector that does not wait for timers."""

    busy = 0
    """How many calls of threads are on their way."""
    passed_seconds = 0.0

    def select(  # type: ignore[explicit-override] # typing.override begins with 3.12
        self, timeout: float | None = None
    ) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready; when nothing is, wait for threads, else let time jump."""
        if timeout == 0:
            return super().select(0)
        if self.busy or timeout is None:
            return super().select(REAL_SECONDS)
        ready = super().select(0)
        if not ready:
            self.passed_seconds += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop; its time begins at 0."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:  # type: ignore[explicit-override] # likewise
        """Return the seconds that have passed."""
        return self._jumping.passed_seconds

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Let no time pass in the block."""
        self._jumping.busy += 1
        try:
            yield
        finally:
            self._jumping.busy -= 1

    def watch(self, connection: aiosqlite.Connection) -> None:
        """Let no time pass while the thread of a connection is at work."""
        execute: Callable[..., Any] = connection._execute

        async def watched(*call: Any, **named: Any) -> Any:
            with self.standing_still():
                return await execute(*call, **named)

        connection._execute = watched  # type: ignore[method-assign]
