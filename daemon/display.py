"""How the command line shows things to people.

Rule: results go to standard output, everything else to standard error. Text from outside is shown
with its control characters spelled out, on a terminal and in a pipe alike.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click
import humanize

from daemon.rules.redaction import escape_control

Row = Mapping[str, Any]

_NEXT_STEP: Mapping[str, str] = {
    "expected": "the provider is asked about it; nothing to do",
    "wanted": "the link is known and is fetched; nothing to do",
    "verified": "every byte is checked; it gets its name in a moment",
    "stored": "the file is in place; finishing steps are pending",
    "done": "safe on disk",
    "failed": "the provider made no video; `retry` asks again",
    "lost": "it can no longer be fetched; `retry` tries once more",
    "pruned": "removed by the retention policy",
}


def size(size_bytes: int | None) -> str:
    """Return a size for people, in powers of 1024 as the configuration has them."""
    return "-" if size_bytes is None else humanize.naturalsize(size_bytes, gnu=True)


def age(text: str | None, now: datetime | None = None) -> str:
    """Return how long ago, or in how long, a time of the API is."""
    if text is None:
        return "-"
    moment = datetime.fromisoformat(text)
    return humanize.naturaltime(moment, when=now or datetime.now(UTC))


def text(value: object) -> str:
    """Return a value as one line that a terminal can show."""
    return "-" if value is None else escape_control(str(value))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print columns as wide as they need to be."""
    lines = [tuple(head), *(tuple(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        click.echo("  ".join(cells).rstrip())


def show_tasks(tasks: Sequence[Row]) -> None:
    """Print a list of tasks."""
    if not tasks:
        click.echo("no tasks", err=True)
        return
    table(
        ("TASK", "STATE", "SIZE", "ADOPTED", "LABEL", "REASON"),
        (
            (
                text(task["task_id"]),
                task["state"] + ("?" if task["unconfirmed"] else ""),
                size(task["size_bytes"]),
                age(task["created_at"]),
                text(task["label"]),
                text(task["reason"]),
            )
            for task in tasks
        ),
    )


def show_task(task: Row) -> None:
    """Print everything about one task, what it means, and its history."""
    for name, value in task.items():
        if name != "history" and value not in {None, False}:
            click.echo(f"{name + ':':<20}{_detail(name, value)}")
    click.echo(f"{'meaning:':<20}{_meaning(task)}")
    click.echo("history:")
    for step in task["history"]:
        before = step["from"] or "(new)"
        reason = f" ({step['reason']})" if step["reason"] else ""
        click.echo(f"  {step['at']}  {before} -> {step['to']}, {step['cause']}{reason}")


def _detail(name: str, value: Any) -> str:
    if name.endswith("_bytes"):
        return f"{value} ({size(value)})"
    if name.endswith("_at"):
        return f"{value} ({age(value)})"
    return text(value)


def _meaning(task: Row) -> str:
    if task["reason"] == "unknown_task":
        return "the provider says that there is no such task; check the id"
    return _NEXT_STEP[task["state"]]


def show_status(status: Row) -> None:
    """Print how it stands."""
    counts = [f"{count} {state}" for state, count in status["counts"].items() if count]
    click.echo(f"tasks:           {', '.join(counts) or 'none yet'}")
    click.echo(f"oldest waiting:  {age(status['oldest_waiting_at'])}")
    click.echo(f"next deadline:   {age(status['next_deadline_at'])}")
    click.echo(f"quarantined:     {status['quarantined']}")
    disk = status["disk"]
    if disk is None:
        click.echo("disk:            the download folder cannot be read")
    else:
        free, least = size(disk["free_bytes"]), size(disk["min_free_bytes"])
        click.echo(
            f"disk:            {free} free in {disk['directory']} (downloads stop at {least})"
        )
    known = status["credits"]
    click.echo(f"credits:         {'unknown' if known is None else f'{known:g}'}")
    click.echo(f"provider:        last answer {age(status['provider_answered_at'])}")
    for gate in status["gates"]:
        click.echo(f"gate shut:       {gate['name']} {age(gate['since'])}: {text(gate['reason'])}")


def show_unsafe(unsafe: Sequence[Row]) -> None:
    """Print what is not safe yet, or that all is."""
    if not unsafe:
        click.echo("safe: everything that was paid for is on disk or was refused by the provider")
        return
    table(
        ("ID", "STATE", "WHY"),
        ((text(one["id"]), one["state"], text(one["why"])) for one in unsafe),
    )


def explain_unsafe(task: Row) -> str:
    """Say why a task is not safe."""
    why = _meaning(task)
    return f"{why}; last trouble: {task['message']}" if task["message"] else why
