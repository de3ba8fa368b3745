"""The verbs about single tasks."""

import sys
from collections.abc import Iterator
from itertools import groupby

import click

from daemon import display
from daemon.cli.group import Exit, Invocation, as_json, cli, judge_refusal, print_json, print_tasks
from daemon.client import DaemonRefused

IDS_AT_ONCE = 1_000


@cli.command("track")
@click.argument("ids", nargs=-1, required=True, metavar="ID...|-")
@click.option("--label", help="A name of yours, kept with each task.")
@as_json
@click.pass_obj
def track(invocation: Invocation, ids: tuple[str, ...], label: str | None, *, as_json: bool) -> int:
    """Adopt tasks that were created elsewhere; `-` reads ids, or id<TAB>label, from stdin."""
    pairs = list(_read_pairs(label)) if ids == ("-",) else [(task_id, label) for task_id in ids]
    client, rejected, tracked = invocation.client(), 0, 0
    for name, batch in _batches(pairs):
        body = {"task_ids": batch} | ({} if name is None else {"label": name})
        _, answer = client.post("/v1/tasks", body)
        for problem in answer.get("rejected", []):
            click.echo(f"{display.text(problem['id'])}: {problem['message']}", err=True)
            rejected += 1
        tracked += len(answer["tasks"])
        print_tasks(answer["tasks"], as_json=as_json)
    if not as_json:
        click.echo(f"{tracked} tracked, {rejected} rejected", err=True)
    return Exit.FAILED if rejected else 0


def _read_pairs(label: str | None) -> Iterator[tuple[str, str | None]]:
    # Bytes that are no text become an id that is refused, and the other lines still count.
    for line in sys.stdin.buffer:
        task_id, tab, own = line.decode("utf-8", "backslashreplace").rstrip("\r\n").partition("\t")
        if task_id.strip():
            yield task_id.strip(), own if tab and own else label


def _batches(pairs: list[tuple[str, str | None]]) -> Iterator[tuple[str | None, list[str]]]:
    for label, group in groupby(pairs, key=lambda pair: pair[1]):
        ids = [task_id for task_id, _ in group]
        for start in range(0, len(ids), IDS_AT_ONCE):
            yield label, ids[start : start + IDS_AT_ONCE]


@cli.command("list")
@click.option("--state", "states", multiple=True, metavar="S", help="Only this state; repeatable.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True)
@as_json
@click.pass_obj
def list_tasks(
    invocation: Invocation, states: tuple[str, ...], limit: int, *, as_json: bool
) -> None:
    """List tasks, the newest first."""
    print_tasks(list(invocation.client().tasks(states, limit)), as_json=as_json)


@cli.command("show")
@click.argument("task_id", metavar="ID")
@as_json
@click.pass_obj
def show_one(invocation: Invocation, task_id: str, *, as_json: bool) -> None:
    """Show one task and all that happened to it."""
    task = invocation.client().task(task_id)
    if as_json:
        print_json([task])
    else:
        display.show_task(task)


@cli.command()
@click.argument("ids", nargs=-1, metavar="ID...")
@click.option("--failed", is_flag=True, help="All tasks that failed.")
@as_json
@click.pass_obj
def retry(invocation: Invocation, ids: tuple[str, ...], *, failed: bool, as_json: bool) -> int:
    """Ask and fetch again, now."""
    if bool(ids) == failed:
        raise click.UsageError("name the tasks, or use --failed")
    client, code = invocation.client(), 0
    if failed:
        ids = tuple(task["task_id"] for task in client.tasks(["failed"]))
    retried = []
    for task_id in ids:
        try:
            retried.append(client.retry(task_id))
        except DaemonRefused as refused:
            click.echo(f"{display.text(task_id)}: {refused}", err=True)
            code = max(code, judge_refusal(refused))
            continue
        if retried[-1]["state"] in {"stored", "done"}:
            click.echo(f"{task_id}: already safe", err=True)
    print_tasks(retried, as_json=as_json)
    return code
