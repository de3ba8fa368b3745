"""A session of `watch`: it listens, asks what it missed, and knows when it is over.

Rule: the daemon does the work and needs nobody who watches. What was missed while nobody listened
is read from the ledger: first we listen, then we ask, so that nothing falls between.
"""

import json
import queue
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import click

from daemon import wording
from daemon.board import ROWS_LIMIT, Board
from daemon.cli.group import Exit
from daemon.cli.waiting import has_ended, judge_end
from daemon.client import Client, DaemonRefused, Events, NoDaemon
from daemon.live import Painter

LOOK_SECONDS: Final = 1.0
"""The ledger is asked that often at most."""
HEAL_SECONDS: Final = 30.0
"""And that often at least: a gate opens, a deadline comes near, without a word."""
TURN_SECONDS: Final = 0.25
AGAIN_SECONDS: Final = 0.5
SINGLY: Final = 20
"""So many tasks are asked for one by one."""
_ON_THEIR_WAY: Final = ("expected", "wanted", "verified", "stored")
_LISTENS, _GONE = object(), object()


class _Feed:
    """Listens on a thread of its own, for a read cannot be given up halfway; listens again."""

    def __init__(self, client: Client, stream: Events) -> None:
        self._client = client
        # Bounded: the daemon tells a reader that is too slow how much it missed.
        self._heard: queue.Queue[Any] = queue.Queue(10_000)
        threading.Thread(target=self._run, args=(stream,), name="events", daemon=True).start()

    def take(self, seconds: float) -> Iterator[Any]:
        """Yield what was heard, after at most so long."""
        try:
            yield self._heard.get(timeout=seconds)
            while True:
                yield self._heard.get_nowait()
        except queue.Empty:
            return

    def _run(self, stream: Events) -> None:
        while True:
            try:
                for _, line in stream:
                    if line:
                        self._heard.put(line)
            except NoDaemon:
                self._heard.put(_GONE)
            stream = self._listen_again()
            self._heard.put(_LISTENS)

    def _listen_again(self) -> Events:
        while True:
            time.sleep(AGAIN_SECONDS)
            # Who stops or starts refuses.
            try:
                return self._client.events()
            except (NoDaemon, DaemonRefused):
                continue


class Watch:
    """One watching of all that is on its way, or of the named tasks."""

    def __init__(self, client: Client, ids: Iterable[str]) -> None:
        self._client = client
        self._board = Board(ids)
        self._first: list[dict[str, Any]] = []
        self._feed: _Feed
        self._looked_at = 0.0
        self._deaf = False
        """Whether nothing is heard just now."""
        self._gone = False
        """Whether it was told that the daemon is gone."""

    def begin(self) -> None:
        """Listen, and then ask how it stands; whatever fails here fails the verb."""
        self._feed = _Feed(self._client, self._client.events())
        self._first = self._look()

    def run(self, painter: Painter) -> int:
        """Show what happens until there is nothing to wait for."""
        for task in self._first:
            painter.moved(task)
        self._board.retire()
        painter.draw(self._board)
        while not self._has_ended():
            moved: dict[str, None] = {}
            for heard in self._feed.take(TURN_SECONDS):
                if heard is _GONE:
                    self._deaf = True
                    self._lose(painter)
                elif heard is _LISTENS:
                    self._deaf, self._board.stale, self._looked_at = False, True, 0.0
                else:
                    self._hear(heard, painter, moved)
            if not self._deaf:
                with self._bridging(painter):
                    self._follow(list(moved), painter)
            painter.draw(self._board)
        return self._judge()

    def _hear(self, line: str, painter: Painter, moved: dict[str, None]) -> None:
        try:
            event = json.loads(line)
        except ValueError:
            return
        if not isinstance(event, dict):
            return
        if self._is_wanted(event):
            painter.heard(event, line)
        if (task_id := self._board.take(event)) is not None:
            moved[task_id] = None

    def _is_wanted(self, event: dict[str, Any]) -> bool:
        ids = self._board.ids
        return not ids or event.get("task_id") in ids or event.get("local_id") in ids

    def _follow(self, moved: list[str], painter: Painter) -> None:
        """Bring the board up to date with what moved, or with everything when that is due."""
        now = time.monotonic()
        waited = now - self._looked_at
        if len(moved) > SINGLY:
            self._board.stale = True
        else:
            for task_id in moved:
                self._see(task_id, painter)
        if waited >= HEAL_SECONDS or (self._board.stale and waited >= LOOK_SECONDS):
            for task in self._look():
                painter.moved(task)
            for task_id in self._board.vanished[:ROWS_LIMIT]:
                self._see(task_id, painter)
        self._board.retire()

    def _see(self, task_id: str, painter: Painter) -> None:
        task = self._client.task(task_id)
        if self._board.put(task):
            painter.moved(task)

    def _look(self) -> list[dict[str, Any]]:
        self._looked_at = time.monotonic()
        status = self._client.get("/v1/status")
        if not self._board.ids:
            return self._board.load(status, self._client.tasks(_ON_THEIR_WAY, ROWS_LIMIT))
        tasks = [self._client.task(given_id) for given_id in self._board.ids]
        # A submit has the provider's id by now.
        self._board.ids = list(dict.fromkeys(task["task_id"] for task in tasks))
        return self._board.load(status, tasks)

    def _lose(self, painter: Painter) -> None:
        if not self._gone:
            self._gone = True
            painter.tell("the daemon is gone: waiting for it to come back")

    @contextmanager
    def _bridging(self, painter: Painter) -> Iterator[None]:
        """What fails while the daemon goes is read again when it is back."""
        try:
            yield
            if self._gone:
                self._gone = False
                painter.tell("the daemon is back")
        except NoDaemon:
            self._lose(painter)
            self._board.stale = True
        except DaemonRefused as refused:
            if refused.status == 404 and self._board.ids:  # noqa: PLR2004 - it was there before
                raise
            self._board.stale = True

    def _has_ended(self) -> bool:
        tasks = self._board.tasks
        return bool(self._board.ids) and all(
            given_id in tasks and has_ended(tasks[given_id]) for given_id in self._board.ids
        )

    def _judge(self) -> int:
        tasks = [self._board.tasks[given_id] for given_id in self._board.ids]
        for task in tasks:
            if wording.is_open_submit(task):
                click.echo(wording.explain_open(task), err=True)
        return max((judge_end(task) for task in tasks), default=Exit.DONE)
