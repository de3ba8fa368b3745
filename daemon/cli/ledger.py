"""The verbs about everything at once: how it stands, and is it safe?"""

import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from daemon import display
from daemon.cli.group import Exit, Invocation, as_json, cli, print_json
from daemon.client import Client
from daemon.config.units import parse_duration
from daemon.wording import explain_unsafe

_CHAPTERS = {
    "stored": "made",
    "done": "made",
    "pruned": "made",
    "failed": "failed",
    "lost": "lost",
}
UNSAFE = ("expected", "wanted", "verified", "lost", "failed")


@cli.command()
@as_json
@click.pass_obj
def status(invocation: Invocation, *, as_json: bool) -> None:
    """Show how it stands: counts, deadlines, gates, disk, credits."""
    from daemon.standing import show_status  # noqa: PLC0415 - the other verbs start faster

    found = invocation.client().get("/v1/status")
    if as_json:
        print_json([found])
    else:
        # In a pipe a line stays a line.
        columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        show_status(found, columns, colours=invocation.has_colours())


@cli.command()
@as_json
@click.pass_obj
def check(invocation: Invocation, *, as_json: bool) -> int:
    """Exit 0 when nothing that was paid for is unsafe, 1 when something is."""
    client = invocation.client()
    unsafe = [
        {"id": task["task_id"], "state": task["state"], "why": explain_unsafe(task)}
        for task in client.tasks(UNSAFE)
        if task["forgotten_at"] is None and _is_open(task)
    ]
    unsafe += [
        {"id": held["id"], "state": "quarantined", "why": f"callback not read: {held['reason']}"}
        for held in client.quarantine()
        if held["forgotten_at"] is None
    ]
    if as_json:
        print_json([{"safe": not unsafe, "unsafe": unsafe}])
    else:
        display.show_unsafe(unsafe)
        if unsafe:
            _show_gates(client)
    return Exit.UNEXPECTED if unsafe else 0


def _show_gates(client: Client) -> None:
    """Say what holds the work back: "nothing to do" is not true of it behind some gates."""
    from daemon.standing import describe_standing  # noqa: PLC0415 - the other verbs start faster

    for name, told, _ in describe_standing(client.get("/v1/status")):
        if name == "gate shut":
            click.echo(f"{name}: {told}")


def _is_open(task: dict[str, Any]) -> bool:
    return bool(task["state"] != "failed" or task["reason"] == "unknown_task")


@cli.command()
@click.option("--since", default="30d", show_default=True, metavar="AGE", help="Such as 36h or 7d.")
@as_json
@click.pass_obj
def report(invocation: Invocation, since: str, *, as_json: bool) -> None:
    """Show what was made, failed and lost, for yourself or the provider's support."""
    try:
        span = parse_duration(since)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--since") from error
    until = datetime.now(UTC)
    begin = max(until - span, datetime.fromtimestamp(0, UTC))
    client = invocation.client()
    chapters = ("made", "failed", "lost", "open")
    found: dict[str, list[dict[str, Any]]] = {chapter: [] for chapter in chapters}
    for task in client.tasks():
        if datetime.fromisoformat(task["created_at"]) < begin:
            break
        found[_CHAPTERS.get(task["state"], "open")].append(task)
    balances = client.balances(int(begin.timestamp() * 1000))
    told = {
        "since": begin.isoformat(timespec="seconds"),
        "until": until.isoformat(timespec="seconds"),
        "credits_before": balances[0]["credits"] if balances else None,
        "credits_after": balances[-1]["credits"] if balances else None,
        **found,
    }
    if as_json:
        print_json([told])
    else:
        display.show_report(told)


@cli.command()
@as_json
@click.pass_obj
def export(invocation: Invocation, *, as_json: bool) -> None:  # noqa: ARG001 - it is always JSON
    """Print the ledger: every task with its history, one JSON object a line, the newest first."""
    print_json(invocation.client().export())


@cli.command("test-notify")
@as_json
@click.pass_obj
def test_notify(invocation: Invocation, *, as_json: bool) -> int:
    """Send a test event to every [[notify]] at once; exit 0 when all took it, else 5."""
    trials = invocation.client().test_targets()
    if as_json:
        print_json(trials)
    else:
        display.show_trials(trials)
    if not trials:
        click.echo(
            "nobody is told anything: the daemon has no [[notify]] in its configuration. Add one "
            'with a url, such as "https://..." or "ntfy://...", then systemctl reload suno-videod',
            err=True,
        )
        return Exit.CONFIGURATION
    return Exit.DONE if all(trial["delivered"] for trial in trials) else Exit.FAILED


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@as_json
@click.pass_obj
def backup(invocation: Invocation, file: Path, *, as_json: bool) -> int:
    """Copy the ledger to FILE, which is new, and check the copy; the daemon may run meanwhile."""
    from daemon.backup import BackupFailed, back_up  # noqa: PLC0415 - the other verbs start faster
    from daemon.lock import StoreRefused  # noqa: PLC0415 - likewise

    try:
        copied = back_up(invocation.load().config.state_dir, file)
    except FileExistsError:
        click.echo(f"{file} is there already and stays as it is: name a new file", err=True)
        return Exit.REFUSED
    except (BackupFailed, StoreRefused) as failure:
        click.echo(f"no backup was made: {failure}", err=True)
        return Exit.UNEXPECTED
    except OSError as failure:
        click.echo(f"no backup was made: {failure.strerror} ({failure.filename})", err=True)
        return Exit.DISK
    told = {"path": copied.path, "tasks": copied.tasks, "size_bytes": copied.size_bytes}
    if as_json:
        print_json([told])
    else:
        display.show_backup(told)
    return Exit.DONE
