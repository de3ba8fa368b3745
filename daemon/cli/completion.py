"""What a shell may put in for what somebody began to type: task ids, states, events, levels.

Rule: whoever presses the tab key is never told of trouble and never waits: within half a second
there is an answer, or none.
"""

import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import click

from daemon.cli.group import Invocation
from daemon.client import Client

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    Items = list[CompletionItem]

SECONDS: Final = 0.35
NEWEST: Final = 300
"""So many tasks are offered, the newest: nobody types the id of an old one by its beginning."""
STATES: Final = (
    *("expected", "wanted", "verified", "stored", "done", "failed", "lost", "pruned"),
    "quarantined",
)
_NAMES: Final = """
admin.acted admin.refused ballast.filled ballast.released callback.quarantined callback.received
callback.rejected callback.tested clock.jumped clock.right clock.wrong config.rejected
config.reloaded config.warning credits.low daemon.cut_short daemon.failed daemon.ready
daemon.stopped daemon.stopping deadline.near download.failed download.finished download.narrowed
download.restarted download.started gate.closed gate.opened gateway.field_dropped
gateway.relayed heartbeat.failed heartbeat.resumed heartbeat.withheld host.first_seen
http.crowded http.failed http.malformed ledger.restored library.message log.dropped loop.blocked
notify.delayed notify.dropped notify.failed notify.recovered notify.sent poll.asked store.failed
store.recovered store.unchecked submit.answered submit.recorded task.moved task.renamed
task.unconfirmed task.vanished watchdog.hungry
"""
EVENTS: Final = tuple(_NAMES.split())
"""All that the log has lines for; a test compares them with the code."""
EPILOG: Final = """\
Shell completion, task ids included, is one line for your shell's start-up file:

\b
bash  eval "$(_SUNO_VIDEOD_COMPLETE=bash_source suno-videod)"
zsh   eval "$(_SUNO_VIDEOD_COMPLETE=zsh_source suno-videod)"
fish  _SUNO_VIDEOD_COMPLETE=fish_source suno-videod | source
"""


class _TooSlow(BaseException):
    """Time is up; no `except Exception` on the way holds it back."""


def complete_ids(context: click.Context, parameter: click.Parameter, incomplete: str) -> "Items":
    """Offer the ids of the newest tasks, or of callbacks in quarantine, that begin so."""
    from click.shell_completion import CompletionItem  # noqa: PLC0415 - for the tab key alone

    given: Any = context.params.get(parameter.name or "") or ()
    known = {given} if isinstance(given, str) else set(given)
    offered: Items = []
    with suppress(Exception, _TooSlow), _in_time():
        client = Client(_invocation(context).client().path, SECONDS)
        if incomplete.startswith("quarantine-"):
            offered += [
                CompletionItem(held["id"], help=_one_line(held["reason"]))
                for held in client.quarantine(NEWEST)
            ]
        else:
            offered += [
                CompletionItem(task["task_id"], help=_one_line(_describe(task)))
                for task in client.tasks(limit=NEWEST)
            ]
    return [
        item for item in offered if item.value.startswith(incomplete) and item.value not in known
    ]


def complete_states(_: click.Context, __: click.Parameter, incomplete: str) -> "Items":
    """Offer the states of a task."""
    return _among(STATES, incomplete)


def complete_events(_: click.Context, __: click.Parameter, incomplete: str) -> "Items":
    """Offer the events of the log, and the first words of their names."""
    families = {f"{name.partition('.')[0]}.*" for name in EVENTS}
    return _among(sorted([*EVENTS, *families]), incomplete)


def _among(words: Iterable[str], incomplete: str) -> "Items":
    from click.shell_completion import CompletionItem  # noqa: PLC0415 - for the tab key alone

    return [CompletionItem(word) for word in words if word.startswith(incomplete)]


def _describe(task: dict[str, Any]) -> str:
    return " ".join(filter(None, (task["state"], task["label"])))


def _one_line(text: str) -> str:
    """Return a text that no shell takes for two, or for more than a text."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:60]


def _invocation(context: click.Context) -> Invocation:
    return Invocation(context.find_root().params.get("flag"))


@contextmanager
def _in_time() -> Iterator[None]:
    """End what takes too long, wherever it is; the shell runs us in a process of our own."""

    def give_up(*_: object) -> None:
        raise _TooSlow

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
