"""The verb `logs`: what the daemon wrote, for people or as it is.

Rule: it reads what others wrote and trusts no line of it; it needs no daemon that runs.
"""

import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from daemon.cli.completion import complete_events, complete_ids
from daemon.cli.group import Exit, Invocation, as_json, cli
from daemon.config.units import parse_duration
from daemon.wording import text

if TYPE_CHECKING:
    from daemon.storyline import Narrator, Story, Wanted
    from daemon.tail import Batches

_DAYS: Final = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_TIMES: Final = (
    'expected a span such as "2h" or "7d", a time such as "2026-11-17" or "2026-11-17 08:30", '
    '"today", "yesterday", or a day such as "tuesday"'
)
_LEVELS: Final = ("debug", "info", "warning", "error", "critical")


@cli.command("logs")
@click.argument("source", required=False, metavar="[FILE|-]", type=click.Path())
@click.option(
    "--task", metavar="ID", shell_complete=complete_ids, help="One task's story, in order of time."
)
@click.option(
    "--event",
    "events",
    multiple=True,
    metavar="NAME",
    shell_complete=complete_events,
    help="Such as download.failed, or download, or 'gate.*'; repeatable.",
)
@click.option("--level", type=click.Choice(_LEVELS), help="This level and what is worse.")
@click.option("--since", metavar="TIME", help="Such as 2h, 2026-11-17, yesterday, tuesday.")
@click.option("--until", metavar="TIME", help="Likewise: up to that time.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written from now on.")
@as_json
@click.pass_obj
def logs(
    invocation: Invocation,
    /,
    *,
    source: str | None,
    task: str | None,
    follow: bool,
    as_json: bool,
    since: str | None,
    until: str | None,
    level: str | None,
    events: tuple[str, ...],
) -> int:
    """Read the daemon's log: of the journal, of a FILE (also .gz), or of standard input (-).

    Times are local. --json passes the daemon's lines through as they are. --follow begins with the
    last ten lines, or where --since says, or with all that there is of a --task.
    """
    from daemon.storyline import Narrator, Story, Wanted  # noqa: PLC0415 - the others start faster
    from daemon.tail import NoLog, NothingLogged  # noqa: PLC0415 - likewise

    now = datetime.now().astimezone()
    begin = _read_time("--since", since, now)
    end = _read_time("--until", until, now)
    if begin and end and end <= begin and until and until.lower() in _DAYS:
        # `--since tuesday --until wednesday`, said on a Wednesday.
        end += timedelta(days=7)
    if begin and end and end <= begin:
        raise click.BadParameter("it is not after --since", param_hint="--until")
    wanted = Wanted(events=events, level=level, since=begin, until=end)
    story = Story(task) if task else None
    ids = story.ids if story else ()
    narrator = None if as_json else Narrator(colours=invocation.has_colours(), alone=ids)
    try:
        batches = _open(source, wanted, follow=follow, whole=task is not None)
        with closing(batches):
            shown = _show(batches, wanted, story, narrator, sort=story is not None and not follow)
        if task and not shown:
            told = f"suno-videod show {text(task)} has its history from the ledger"
            click.echo(f"nothing is said of that task here; {told}", err=True)
        elif not shown and not follow:
            click.echo("no line here is of that kind and that time", err=True)
    except NothingLogged as nothing:
        click.echo(str(nothing), err=True)
        # Nobody may have said anything in the time that was asked for.
        return Exit.DONE if begin or end else Exit.TRANSIENT
    except NoLog as problem:
        click.echo(str(problem), err=True)
        return Exit.TRANSIENT if source is None else Exit.USAGE
    return Exit.DONE


def _open(source: str | None, wanted: "Wanted", *, follow: bool, whole: bool) -> "Batches":
    from daemon import tail  # noqa: PLC0415 - the other verbs start faster without

    whole = whole or wanted.since is not None
    if source is None:
        return tail.read_journal(since=wanted.since, until=wanted.until, follow=follow, whole=whole)
    if source == "-":
        return tail.read_stdin()
    if not follow:
        return tail.read_file(Path(source))
    if source.endswith(".gz"):
        raise click.UsageError("nothing is added to a compressed file: leave --follow out")
    return tail.follow_file(Path(source), whole=whole)


def _show(
    batches: Iterator[list[bytes]],
    wanted: "Wanted",
    story: "Story | None",
    narrator: "Narrator | None",
    *,
    sort: bool,
) -> bool:
    """Print what is wanted, and return whether anything was."""
    from daemon.storyline import in_order, select  # noqa: PLC0415 - likewise

    found = select(batches, wanted, story)
    if sort:
        found = iter([in_order(entry for entries in found for entry in entries)])
    shown = False
    out, encoding = sys.stdout.buffer, sys.stdout.encoding
    for entries in found:
        if narrator is None:
            text = b"".join(entry.raw + b"\n" for entry in entries if entry.fields is not None)
        else:
            told = "".join(f"{narrator.tell(entry)}\n" for entry in entries)
            text = told.encode(encoding, "backslashreplace")
        if text:
            out.write(text)
            out.flush()
            shown = True
    return shown


def _read_time(option: str, text: str | None, now: datetime) -> datetime | None:
    if text is None:
        return None
    try:
        return parse_moment(text, now)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from error


def parse_moment(text: str, now: datetime) -> datetime:
    """Read a time: so long ago, a date or a time of ISO 8601, or the beginning of a named day.

    Without a zone it is local time. A day of the week is the last one before today.

    Raises:
        ValueError: it is none of these.
    """
    word = text.strip().lower()
    days = {"today": 0, "yesterday": 1}.get(word)
    if word in _DAYS:
        days = (now.weekday() - _DAYS.index(word)) % 7 or 7
    if days is not None:
        day = (now - timedelta(days=days)).date()
        return datetime(day.year, day.month, day.day).astimezone()
    try:
        return max(now - parse_duration(word), datetime(1970, 1, 2, tzinfo=now.tzinfo))
    except ValueError:
        pass
    try:
        # A naive time is a local one.
        return datetime.fromisoformat(text.strip()).astimezone()
    except (ValueError, OverflowError, OSError):
        raise ValueError(_TIMES) from None
