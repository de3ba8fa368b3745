"""Waiting for one task to end, with its progress on standard error.

Rule: the daemon does the work and needs nobody who waits; who stops waiting stops nothing.
"""

import shutil
import sys
import time
from collections.abc import Mapping
from typing import Any, Final

import click

from daemon.cli.group import Exit
from daemon.client import Client, NoDaemon
from daemon.rules.failure import Reason
from daemon.wording import needs_person, text

_ENDS: Final = frozenset({"done", "failed", "lost", "pruned"})
LOOK_SECONDS: Final = 0.25
RESTART_SECONDS: Final = 60.0
"""How long a daemon may be gone, for a restart, before waiting ends."""


def wait_for_end(client: Client, task: Mapping[str, Any]) -> Any:
    """Return the task when it is done, failed or lost, or when a person is needed or forgot it.

    Raises:
        NoDaemon: it was gone for longer than a restart takes.
    """
    from daemon.bars import Pace, draw_line  # noqa: PLC0415 - the other verbs start faster

    line, pace = _Line(), Pace()
    task_id, gone_since = task["task_id"], None
    while True:
        try:
            newest = client.task(task_id)
        except NoDaemon:
            gone_since = gone_since or time.monotonic()
            if time.monotonic() - gone_since > RESTART_SECONDS:
                line.end()
                raise
            line.show(f"{text(task_id)}  waiting for the daemon to come back")
        else:
            gone_since = None
            line.show(draw_line(newest, line.columns(), pace.feed(newest["received_bytes"])))
            if has_ended(newest):
                line.end()
                return newest
        time.sleep(LOOK_SECONDS)


def has_ended(task: Mapping[str, Any]) -> bool:
    """Tell whether nothing more comes of waiting for this task."""
    return bool(task["state"] in _ENDS or task["forgotten_at"] or needs_person(task))


def judge_end(task: Mapping[str, Any]) -> Exit:
    """Return how the command ends that waited for this task."""
    if task["reason"] in {Reason.UNAUTHORIZED, Reason.OUT_OF_CREDITS}:
        return Exit.ACCOUNT
    if task["state"] in {"failed", "lost"}:
        return Exit.FAILED
    return Exit.DONE if task["state"] in _ENDS else Exit.TRANSIENT


class _Line:
    """One line that is drawn again on a terminal, and written once for each change elsewhere."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._shown = ""

    def columns(self) -> int | None:
        """Return how wide a line may be: one that wraps cannot be drawn again."""
        return max(20, shutil.get_terminal_size().columns - 1) if self._live else None

    def show(self, line: str) -> None:
        if line == self._shown:
            return
        if self._live:
            click.echo(f"\r\x1b[2K{line}", err=True, nl=False)
        elif line.split()[:2] != self._shown.split()[:2]:
            click.echo(line, err=True)
        self._shown = line

    def end(self) -> None:
        if self._live and self._shown:
            click.echo(err=True)
