"""How the command line shows things to people.

Rule: results go to standard output, everything else to standard error. Text from outside is shown
with its control characters spelled out, on a terminal and in a pipe alike.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import click
import humanize

from daemon.rules.redaction import escape_control
from daemon.wording import Row, age, explain, size, text


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
    click.echo(f"{'meaning:':<20}{explain(task)}")
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


def show_quarantine(held: Sequence[Row]) -> None:
    """Print callbacks that could not be read."""
    if not held:
        click.echo("the quarantine is empty", err=True)
        return
    table(
        ("ID", "RECEIVED", "COPIES", "SIZE", "SEEN", "WHY"),
        (
            (
                text(one["id"]),
                age(one["received_at"]),
                str(one["copies"]),
                size(one["size_bytes"]),
                "yes" if one["forgotten_at"] else "no",
                text(one["reason"]),
            )
            for one in held
        ),
    )


def show_held(held: Row) -> None:
    """Print everything about one callback that could not be read; its body comes last."""
    for name, value in held.items():
        if name != "body" and value is not None:
            click.echo(f"{name + ':':<20}{_detail(name, value)}")
    click.echo(f"{'meaning:':<20}acknowledged with 200 and kept; `forget` says that you saw it")
    click.echo("body:")
    for line in str(held["body"]).splitlines() or [""]:
        click.echo(f"  {escape_control(line)}")


def show_report(report: Row) -> None:
    """Print a report as it can be sent to the provider's support."""
    click.echo(f"suno-videod report, {report['since']} to {report['until']}")
    before, after = report["credits_before"], report["credits_after"]
    if after is not None:
        click.echo(f"credits: {before:g} before, {after:g} after")
    made = report["made"]
    total = size(sum(task["size_bytes"] or 0 for task in made))
    click.echo(
        f"{len(made)} made ({total}), {len(report['failed'])} failed, {len(report['lost'])} lost, "
        f"{len(report['open'])} open"
    )
    for name in ("failed", "lost", "open", "made"):
        if report[name]:
            click.echo(f"\n{name}:")
            table(
                ("TASK", "MUSIC TASK", "AUDIO", "ADOPTED", "ENDED", "CODE", "REASON", "MESSAGE"),
                (_report_row(task) for task in report[name]),
            )


def _report_row(task: Row) -> Sequence[str]:
    ended = task["updated_at"] if task["state"] in {"failed", "lost"} else task["stored_at"]
    names = ("task_id", "music_task_id", "audio_id", "created_at")
    return (
        *(text(task[name]) for name in names),
        *(text(value) for value in (ended, task["provider_code"], task["reason"])),
        text(task["message"]),
    )


def show_trials(trials: Iterable[Row]) -> None:
    """Print what came of a test event, by target."""
    for trial in trials:
        answered = "" if trial["status"] is None else f", HTTP {trial['status']}"
        told = "took the test event" if trial["delivered"] else "did NOT take the test event"
        click.echo(f"{text(trial['target'])}: {told} ({trial['seconds']:.1f} s{answered})")
        if not trial["delivered"]:
            click.echo(f"  {text(trial['error'])}\n  do: {text(trial['advice'])}")


def show_backup(backup: Row) -> None:
    """Print what was copied."""
    tasks = humanize.intcomma(backup["tasks"])
    click.echo(f"{text(backup['path'])}: {tasks} tasks, {size(backup['size_bytes'])}, verified")


def show_unsafe(unsafe: Sequence[Row]) -> None:
    """Print what is not safe yet, or that all is."""
    if not unsafe:
        click.echo("safe: everything that was paid for is on disk or was refused by the provider")
        return
    table(
        ("ID", "STATE", "WHY"),
        ((text(one["id"]), one["state"], text(one["why"])) for one in unsafe),
    )
