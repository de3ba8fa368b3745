"""The verbs about single tasks."""

import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Any

import click

from daemon import display, wording
from daemon.cli.completion import complete_ids, complete_states
from daemon.cli.group import Exit, Invocation, as_json, cli, judge_refusal, print_json, print_tasks
from daemon.cli.waiting import judge_end, wait_for_end
from daemon.client import TEXT_CUT, DaemonRefused, is_held

IDS_AT_ONCE = 400
"""So many of the longest texts, in whatever letters, are less than a request may hold."""


_MAY_HAVE_IT = "may have it already, and then goes on with it: suno-videod list"


@cli.command()
@click.option("--task-id", "music_task_id", required=True, metavar="ID", help="The music task.")
@click.option("--audio-id", required=True, metavar="ID", help="One of its tracks.")
@click.option("--author", help="The artist on the film, at most 50 characters.")
@click.option("--domain-name", help="The watermark at its bottom, at most 50 characters.")
@click.option("--label", help="A name of yours, kept with the task.")
@click.option("--wait", is_flag=True, help="Until the film is on the disk, or will not be.")
@click.option("--no-check", is_flag=True, help="Without asking first whether it can be made.")
@as_json
@click.pass_obj
def submit(
    invocation: Invocation, /, *, wait: bool, no_check: bool, as_json: bool, **asked: str | None
) -> int:
    """Have a music video made. It costs credits; one track is never paid for twice."""
    client = invocation.client()
    given = {name: value for name, value in asked.items() if value is not None}
    task: Any = None
    try:
        task = client.submit({**given, "check": not no_check})
        if wait:
            task = wait_for_end(client, task)
    except KeyboardInterrupt:
        told = f"goes on with it: suno-videod show {task['task_id']}" if task else _MAY_HAVE_IT
        click.echo(f"\nthe daemon {told}", err=True)
        raise
    print_tasks([task], as_json=as_json)
    if wording.is_open_submit(task):
        click.echo(wording.explain_open(task), err=True)
    if wait:
        return judge_end(task)
    return Exit.TRANSIENT if wording.is_open_submit(task) else Exit.DONE


@cli.command("track")
@click.argument("ids", nargs=-1, required=True, metavar="ID...|-")
@click.option("--label", help="A name of yours, kept with each task.")
@as_json
@click.pass_obj
def track(invocation: Invocation, ids: tuple[str, ...], label: str | None, *, as_json: bool) -> int:
    """Adopt tasks that were created elsewhere; `-` reads ids, or id<TAB>label, from stdin."""
    pairs = list(_read_pairs(label)) if ids == ("-",) else [(_spell(name), label) for name in ids]
    client, tracked, rejected = invocation.client(), 0, 0
    shown: list[dict[str, Any]] = []
    for name, batch in _batches(pairs):
        body = {"task_ids": batch} | ({} if name is None else {"label": name})
        try:
            _, answer = client.post("/v1/tasks", body)
        except DaemonRefused as refused:
            if judge_refusal(refused) is not Exit.USAGE or name == label:
                raise
            # A line's own label that makes no sense: its ids are refused, the others still count.
            problems = [{"id": task_id, "message": str(refused)} for task_id in batch]
            answer = {"tasks": [], "rejected": problems}
        for problem in answer.get("rejected", []):
            click.echo(f"{wording.text(problem['id'])}: {problem['message']}", err=True)
            rejected += 1
        tracked += len(answer["tasks"])
        if as_json:
            print_json(answer["tasks"])
        else:
            shown += answer["tasks"]
        if len(pairs) > IDS_AT_ONCE:
            click.echo(f"{tracked} of {len(pairs)} tracked", err=True)
    if not as_json:
        print_tasks(shown, as_json=False)
        click.echo(f"{tracked} tracked, {rejected} rejected", err=True)
    return Exit.FAILED if rejected else Exit.DONE


def _read_pairs(label: str | None) -> Iterator[tuple[str, str | None]]:
    for line in sys.stdin.buffer:
        task_id, tab, own = line.decode("utf-8", "surrogateescape").rstrip("\r\n").partition("\t")
        if task_id.strip():
            yield _spell(task_id.strip()), _spell(own) if tab and own else label


def _spell(text: str) -> str:
    """Spell bytes that are no text, and cut what is too long: it is refused, the others count."""
    return text[:TEXT_CUT].encode(errors="backslashreplace").decode()


def _batches(pairs: list[tuple[str, str | None]]) -> Iterator[tuple[str | None, list[str]]]:
    """Yield ids that share a label, as many as one request takes."""
    by_label = sorted(pairs, key=lambda pair: pair[1] or "")
    for label, group in groupby(by_label, key=lambda pair: pair[1]):
        ids = [task_id for task_id, _ in group]
        for start in range(0, len(ids), IDS_AT_ONCE):
            yield label, ids[start : start + IDS_AT_ONCE]


@cli.command("list")
@click.option(
    "--state",
    "states",
    multiple=True,
    metavar="S",
    shell_complete=complete_states,
    help="Only this state; repeatable.",
)
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True)
@as_json
@click.pass_obj
def list_tasks(
    invocation: Invocation, states: tuple[str, ...], limit: int, *, as_json: bool
) -> None:
    """List tasks, the newest first; `--state quarantined` lists callbacks that cannot be read."""
    client = invocation.client()
    if "quarantined" not in states:
        print_tasks(list(client.tasks(states, limit)), as_json=as_json)
        return
    if len(states) > 1:
        raise click.UsageError("quarantined callbacks are no tasks: list them alone")
    held = list(client.quarantine(limit))
    if as_json:
        print_json(held)
    else:
        display.show_quarantine(held)


@cli.command("show")
@click.argument("given_id", metavar="ID", shell_complete=complete_ids)
@as_json
@click.pass_obj
def show_one(invocation: Invocation, given_id: str, *, as_json: bool) -> None:
    """Show one task and all that happened to it, or a callback in quarantine."""
    client = invocation.client()
    found = client.held(given_id) if is_held(given_id) else client.task(given_id)
    if as_json:
        print_json([found])
    elif is_held(given_id):
        display.show_held(found)
    else:
        display.show_task(found)


@cli.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...", shell_complete=complete_ids)
@as_json
@click.pass_obj
def forget(invocation: Invocation, ids: tuple[str, ...], *, as_json: bool) -> int:
    """Say that you have seen it: a failed or lost task, a wrong id, an odd callback.

    `check` counts it no more and nobody is asked about it; its history stays, and a film that comes
    after all is fetched.
    """
    client = invocation.client()
    forgotten, code = _each(ids, client.forget)
    if as_json:
        print_json(forgotten)
    else:
        click.echo(f"{len(forgotten)} forgotten", err=True)
    return code


@cli.command()
@click.argument("ids", nargs=-1, metavar="ID...", shell_complete=complete_ids)
@click.option("--failed", is_flag=True, help="All that failed, but no refused submit.")
@click.option("--force", is_flag=True, help="Also what the retention policy removed.")
@as_json
@click.pass_obj
def retry(
    invocation: Invocation, ids: tuple[str, ...], *, failed: bool, force: bool, as_json: bool
) -> int:
    """Ask and fetch again, now; send an open submit again."""
    if bool(ids) == failed:
        raise click.UsageError("name the tasks, or use --failed")
    client = invocation.client()
    if failed:
        # A refused submit is bought again only by its id.
        ids = tuple(
            task["task_id"]
            for task in client.tasks(["failed"])
            if task["forgotten_at"] is None and not wording.is_submit(task)
        )
    retried, code = _each(ids, lambda task_id: client.retry(task_id, force=force))
    for task in retried:
        if task["state"] in {"stored", "done"}:
            click.echo(f"{task['task_id']}: already safe", err=True)
    if retried or not code:
        print_tasks(retried, as_json=as_json)
    return code


def _each(
    ids: Iterable[str], ask: Callable[[str], dict[str, Any]]
) -> tuple[list[dict[str, Any]], int]:
    """Ask for every id; return what was granted and the worst exit code of what was not."""
    granted, code = [], int(Exit.DONE)
    for given_id in ids:
        try:
            granted.append(ask(given_id))
        except DaemonRefused as refused:
            told = str(refused)
            name = wording.text(given_id)
            click.echo(told if name in told else f"{name}: {told}", err=True)
            code = max(code, judge_refusal(refused))
    return granted, code
