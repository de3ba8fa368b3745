"""Waiting for one task to end, with its progress on standard error.

Rule: the daemon does the work and needs nobody who waits; who stops waiting stops nothing.
"""

import sys
import time
from collections.abc import Mapping
from typing import Any, Final

import click

from daemon import display
from daemon.cli.group import Exit
from daemon.client import Client, NoDaemon
from daemon.rules.failure import Reason

LOOK_SECONDS: Final = 0.25
RESTART_SECONDS: Final = 60.0
"""How long a daemon may be gone, for a restart, before waiting ends."""
_ENDS: Final = frozenset({"done", "failed", "lost", "pruned"})


def wait_for_end(client: Client, task: Mapping[str, Any]) -> Any:
    """Return the task when it is done, failed or lost, or when a person is needed or forgot it.

    Raises:
        NoDaemon: it was gone for longer than a restart takes.
    """
    line = _Line()
    task_id, gone_since = task["task_id"], None
    while True:
        try:
            newest = client.task(task_id)
        except NoDaemon:
            gone_since = gone_since or time.monotonic()
            if time.monotonic() - gone_since > RESTART_SECONDS:
                line.end()
                raise
            line.show(f"{display.text(task_id)}  waiting for the daemon to come back")
        else:
            gone_since = None
            line.show(display.draw_progress(newest))
            if newest["state"] in _ENDS or newest["forgotten_at"] or display.needs_person(newest):
                line.end()
                return newest
        time.sleep(LOOK_SECONDS)


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

    def show(self, line: str) -> None:
        if line == self._shown:
            return
        if self._live:
            click.echo(f"\r\x1b[2K{line}", err=True, nl=False)
        elif line.split("[", maxsplit=1)[0] != self._shown.split("[")[0]:
            click.echo(line, err=True)
        self._shown = line

    def end(self) -> None:
        if self._live and self._shown:
            click.echo(err=True)
