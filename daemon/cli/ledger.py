"""The verbs about everything at once: how it stands, and is it safe?"""

from typing import Any

import click

from daemon import display
from daemon.cli.group import Exit, Invocation, as_json, cli, print_json

UNSAFE = ("expected", "wanted", "verified", "lost", "failed")


@cli.command()
@as_json
@click.pass_obj
def status(invocation: Invocation, *, as_json: bool) -> None:
    """Show how it stands: counts, deadlines, gates, disk, credits."""
    found = invocation.client().get("/v1/status")
    if as_json:
        print_json([found])
    else:
        display.show_status(found)


@cli.command()
@as_json
@click.pass_obj
def check(invocation: Invocation, *, as_json: bool) -> int:
    """Exit 0 when nothing that was paid for is unsafe, 1 when something is."""
    client = invocation.client()
    unsafe = [
        {"id": task["task_id"], "state": task["state"], "why": display.explain_unsafe(task)}
        for task in client.tasks(UNSAFE)
        if task["forgotten_at"] is None and _is_open(task)
    ]
    unsafe += [
        {"id": held["id"], "state": "quarantined", "why": f"callback not read: {held['reason']}"}
        for held in client.quarantine()
    ]
    if as_json:
        print_json([{"safe": not unsafe, "unsafe": unsafe}])
    else:
        display.show_unsafe(unsafe)
    return Exit.UNEXPECTED if unsafe else 0


def _is_open(task: dict[str, Any]) -> bool:
    return bool(task["state"] != "failed" or task["reason"] == "unknown_task")
