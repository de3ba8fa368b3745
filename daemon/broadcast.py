"""What happens right now, for everyone who looks on: lines of the log, and how far downloads are.

Rule: who looks on holds nobody up. Each has a backlog of his own; what finds no place in it is
counted, and he is told. Nothing of the past is kept: who comes, comes to a ledger that knows it.
"""

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple

from daemon.logs import show_to

BACKLOG_LINES: Final = 1_000
LISTENERS_LIMIT: Final = 32
"""Each line is handed to each of them: hundreds would hold callbacks up."""
DROPPED: Final = "events.dropped"


class News(NamedTuple):
    """Something that happened: the event's name, and one line of JSON about it."""

    event: str
    line: str


class Listener:
    """Somebody who looks on, and what he has not taken yet."""

    def __init__(self) -> None:
        self._backlog: deque[News] = deque()
        self._dropped = 0
        self._there = asyncio.Event()
        self._is_left = False

    async def take(self) -> list[News]:
        """Wait for news and return them; none when the process stops."""
        await self._there.wait()
        taken, dropped = [*self._backlog], self._dropped
        self._backlog.clear()
        self._dropped = 0
        if not self._is_left:
            self._there.clear()
        if dropped:
            line = f'{{"level":"warning","event":"{DROPPED}","lines":{dropped}}}'
            taken.append(News(DROPPED, line))
        return taken

    def hand(self, news: News) -> None:
        """Add news, or count them where there is no place left."""
        if len(self._backlog) < BACKLOG_LINES:
            self._backlog.append(news)
        else:
            self._dropped += 1
        self._there.set()

    def leave(self) -> None:
        """Say that nothing comes any more."""
        self._is_left = True
        self._there.set()


class Broadcast:
    """Hands news to all who listen at that moment. Made inside the loop that they listen in."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._listeners: set[Listener] = set()
        self._is_closed = False
        self._wanted = asyncio.Event()

    @property
    def is_full(self) -> bool:
        """Whether as many listen as may."""
        return len(self._listeners) >= LISTENERS_LIMIT

    async def wait_for_listener(self) -> None:
        """Return as soon as somebody listens."""
        await self._wanted.wait()

    def send(self, event: str, lines: str) -> None:
        """Hand over what happened, a line for each time that it did. From any thread."""
        # The loop is gone: so is everybody who listened in it.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._hand_out, event, lines)

    def _hand_out(self, event: str, lines: str) -> None:
        for line in lines.split("\n"):
            for listener in self._listeners:
                listener.hand(News(event, line))

    @contextmanager
    def listen(self) -> Iterator[Listener]:
        """Hear from now on what happens."""
        listener = Listener()
        if self._is_closed:
            listener.leave()
        self._listeners.add(listener)
        show_to(self.send)
        self._wanted.set()
        try:
            yield listener
        finally:
            self._listeners.discard(listener)
            if not self._listeners:
                show_to(None)
                self._wanted.clear()

    def close(self) -> None:
        """Let everybody go: the process stops."""
        self._is_closed = True
        for listener in self._listeners:
            listener.leave()
