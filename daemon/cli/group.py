"""The group of all verbs, what they share, and the exit codes.

Rule: a verb ends with one of the codes of `EXITS`; what it prints on standard output is a result.
"""

import json
import os
import sys
from collections.abc import Iterable, Mapping
from enum import IntEnum
from pathlib import Path
from typing import Any

import click

from daemon import __version__, display
from daemon.client import Client, DaemonRefused, find_socket
from daemon.config import Loaded, environment, find, load
from daemon.rules.failure import Reason
from daemon.rules.gate_words import explain_gate


class Exit(IntEnum):
    """How a command ends; scripts rely on it."""

    DONE = 0
    UNEXPECTED = 1
    """Also: work is open, of `check`."""
    USAGE = 2
    CONFIGURATION = 3
    ACCOUNT = 4
    """API key or credits."""
    FAILED = 5
    """Some tasks failed for good, or an id is unknown."""
    TRANSIENT = 6
    """It may work later, or no daemon answers."""
    REFUSED = 7
    """Refused for safety."""
    INTERRUPTED = 8
    DISK = 9


_UNPROCESSABLE = 422
_STATUSES: Mapping[int, Exit] = {
    404: Exit.FAILED,
    409: Exit.REFUSED,
    503: Exit.TRANSIENT,
}


def judge_refusal(refused: DaemonRefused) -> Exit:
    """Return how a command ends that the daemon refused.

    422 has two voices: the provider's definite no, whose code is a `Reason`, and ours about a value
    that makes no sense.
    """
    if refused.code in {Reason.UNAUTHORIZED, Reason.OUT_OF_CREDITS}:
        return Exit.ACCOUNT
    if refused.status == _UNPROCESSABLE:
        return Exit.FAILED if refused.code in set(Reason) else Exit.USAGE
    return _STATUSES.get(refused.status, Exit.UNEXPECTED)


def advise(refused: DaemonRefused) -> str:
    """Say what to do about a refusal whose own words do not say it."""
    if refused.code == "unknown_task":
        return "suno-videod list shows those it knows; suno-videod track ID takes one in"
    if refused.code == Reason.UNAUTHORIZED:
        do = explain_gate("key").do
        return f"the provider refuses the API key: nothing was submitted or paid for; {do}"
    if refused.code == Reason.OUT_OF_CREDITS:
        return "nothing was submitted or paid for; buy credits at the provider, and submit again"
    return ""


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")


class Invocation:
    """What all verbs share; the configuration is read by the first verb that needs it."""

    def __init__(self, flag: Path | None) -> None:
        self.flag = flag
        self.environ = environment()

    def load(self, *, thorough: bool = False) -> Loaded:
        """Read the configuration; `thorough` is for who is to find every mistake."""
        return load(find(self.flag, self.environ), self.environ, thorough=thorough)

    def client(self) -> Client:
        """Return the admin API of the daemon that this configuration is for."""
        return Client(find_socket(self.load(), self.environ))

    def has_colours(self) -> bool:
        """Tell whether people read standard output, on a terminal that has colours."""
        wanted = not self.environ.get("NO_COLOR") and self.environ.get("TERM") != "dumb"
        return wanted and sys.stdout.isatty()


class _Verbs(click.Group):
    """All verbs; a reader of our output that has seen enough, such as head, is no error."""

    def invoke(self, ctx: click.Context) -> Any:  # type: ignore[explicit-override]  # likewise 3.12
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            if ctx.invoked_subcommand == "serve":
                raise
            # What is still buffered would be written, and fail once more, at the very end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-c",
    "--config",
    "flag",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Configuration; else $SUNO_VIDEOD_CONFIG, ./config.toml, /etc/suno-videod/config.toml.",
)
@click.version_option(__version__, prog_name="suno-videod")
@click.pass_context
def cli(context: click.Context, flag: Path | None) -> None:
    """Get every Suno music video that was paid for onto this disk, whole and verified."""
    context.obj = Invocation(flag)


def print_tasks(tasks: list[dict[str, Any]], *, as_json: bool) -> None:
    """Print tasks for people, or one JSON object a line."""
    if as_json:
        print_json(tasks)
    else:
        display.show_tasks(tasks)


def print_json(values: Iterable[object]) -> None:
    """Print values as JSON, one a line."""
    for value in values:
        click.echo(json.dumps(value))
