"""The command `suno-videod`: its verbs and exit codes.

Rule: a verb reads its arguments, calls one thing, shows the result. Standard output holds results
only; every error says what to do. Exit codes: 0 done, 1 unexpected or work open, 2 usage,
3 configuration, 5 some tasks failed for good, 6 no daemon answers, 8 interrupted.
"""

import asyncio
import json
import os
import sys
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, NoReturn

import click

from daemon import __version__, display
from daemon.client import Client, DaemonRefused, NoDaemon, find_socket
from daemon.config import ConfigError, Loaded, environment, find, load, show
from daemon.config.endpoints import format_endpoint

UNEXPECTED, USAGE, CONFIGURATION, FAILED, TRANSIENT, INTERRUPTED = 1, 2, 3, 5, 6, 8
IDS_AT_ONCE = 1_000
UNSAFE = ("expected", "wanted", "verified", "lost", "failed")
NOT_FOUND, UNPROCESSABLE = 404, 422

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")


class Invocation:
    """What all verbs share; the configuration is read by the first verb that needs it."""

    def __init__(self, flag: Path | None) -> None:
        self.flag = flag
        self.environ = environment()

    def load(self) -> Loaded:
        """Read the configuration."""
        return load(find(self.flag, self.environ), self.environ)

    def client(self) -> Client:
        """Return the admin API of the daemon that this configuration is for."""
        return Client(find_socket(self.load(), self.environ))


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


@cli.command()
@click.pass_obj
def serve(invocation: Invocation) -> int:
    """Run the daemon in the foreground."""
    from daemon.logs import ThreadedStream, set_up_logs  # noqa: PLC0415 - the other verbs start faster without
    from daemon.service import serve as run  # noqa: PLC0415

    loaded = invocation.load()
    section = loaded.config.log
    secrets = [secret.reveal() for secret in loaded.secrets]
    stream = ThreadedStream(sys.stdout)
    set_up_logs(level=section.level, form=section.format, secrets=secrets, stream=stream)
    try:
        code: int = asyncio.run(run(loaded, invocation.environ))
    finally:
        stream.close()
    return code


@cli.command()
@click.option("--directory", type=click.Path(path_type=Path), help="Instead of a fresh folder.")
def demo(directory: Path | None) -> int:
    """Show the whole job offline, with a simulated provider."""
    from daemon.demo import run_demo  # noqa: PLC0415 - only this verb needs it

    return run_demo(directory)


@cli.command()
@click.option("--listen", default="127.0.0.1:8090", show_default=True, metavar="HOST:PORT")
@click.option("--kind", type=click.Choice(["sunoapi", "apibox", "kie"]), default="sunoapi")
@click.option("--api-key", help="The only key that is accepted; without it, any key is.")
@click.option("--hmac-key", help="Sign callbacks as kie.ai does.")
@click.option("--render-seconds", type=float, default=2.0, show_default=True)
@click.option("--file-size", default="5M", show_default=True, help="Of each video.")
@click.option("--speed", default="0", help="Bytes a second of each download, such as 2M.")
@click.option("--scenarios", is_flag=True, help="List the audioIds that make something go wrong.")
def simulate(*, listen: str, file_size: str, speed: str, scenarios: bool, **options: Any) -> int:
    """Be the provider, without credits: generate, record-info, callbacks, files, faults on demand.

    An application generates as usual; an audioId of --scenarios makes the story go wrong.
    """
    from daemon.simulation import list_scenarios, run_simulator  # noqa: PLC0415 - only here

    if scenarios:
        display.table(("AUDIO ID", "WHAT HAPPENS"), list_scenarios())
        return 0
    return run_simulator(listen, file_size, speed, options)


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
        _print(answer["tasks"], as_json=as_json)
    if not as_json:
        click.echo(f"{tracked} tracked, {rejected} rejected", err=True)
    return FAILED if rejected else 0


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
    _print(list(invocation.client().tasks(states, limit)), as_json=as_json)


@cli.command("show")
@click.argument("task_id", metavar="ID")
@as_json
@click.pass_obj
def show_one(invocation: Invocation, task_id: str, *, as_json: bool) -> None:
    """Show one task and all that happened to it."""
    task = invocation.client().task(task_id)
    if as_json:
        _print_json([task])
    else:
        display.show_task(task)


@cli.command()
@as_json
@click.pass_obj
def status(invocation: Invocation, *, as_json: bool) -> None:
    """Show how it stands: counts, deadlines, gates, disk, credits."""
    found = invocation.client().get("/v1/status")
    if as_json:
        _print_json([found])
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
        _print_json([{"safe": not unsafe, "unsafe": unsafe}])
    else:
        display.show_unsafe(unsafe)
    return UNEXPECTED if unsafe else 0


def _is_open(task: dict[str, Any]) -> bool:
    return bool(task["state"] != "failed" or task["reason"] == "unknown_task")


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
            code = FAILED if refused.status == NOT_FOUND else max(code, 7)
            continue
        if retried[-1]["state"] in {"stored", "done"}:
            click.echo(f"{task_id}: already safe", err=True)
    _print(retried, as_json=as_json)
    return code


@cli.command("callback-url")
@click.pass_obj
def callback_url(invocation: Invocation) -> int:
    """Print the URL to give the provider as callBackUrl."""
    from daemon.database import StoreRefused  # noqa: PLC0415 - the other verbs start faster without
    from daemon.token import read_token  # noqa: PLC0415 - likewise

    config = invocation.load().config
    tokens = [token.reveal() for token in config.callback.tokens]
    try:
        token = tokens[0] if tokens else read_token(config.state_dir)
    except StoreRefused as refusal:
        click.echo(str(refusal), err=True)
        return CONFIGURATION
    if token is None:
        click.echo(
            f"no token in {config.state_dir} yet: start the daemon once (suno-videod serve), "
            "or set callback.tokens",
            err=True,
        )
        return CONFIGURATION
    url = config.callback.public_url
    if url is None:
        listen = format_endpoint(config.callback.listen) or "localhost"
        url = f"http://{listen}{config.callback.path}"
        click.echo(
            "warning: callback.public_url is not set, so this URL works on this machine only; "
            "the provider needs a public https address",
            err=True,
        )
    click.echo(f"{url.rstrip('/')}/{token}")
    return 0


@cli.group("config")
def config_group() -> None:
    """Check or show the configuration."""


@config_group.command("check")
@click.pass_obj
def config_check(invocation: Invocation) -> None:
    """Read the configuration and report all mistakes; nothing is started."""
    loaded = invocation.load()
    for warning in loaded.warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(f"{loaded.path or 'the built-in defaults'}: no mistakes")


@config_group.command("show")
@as_json
@click.pass_obj
def config_show(invocation: Invocation, *, as_json: bool) -> None:
    """Show every key with its effective value and where it comes from."""
    rows = show(invocation.load())
    if as_json:
        _print_json({"key": key, "value": value, "origin": origin} for key, value, origin in rows)
    else:
        display.table(("KEY", "VALUE", "ORIGIN"), rows)


def _print(tasks: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        _print_json(tasks)
    else:
        display.show_tasks(tasks)


def _print_json(values: Iterable[object]) -> None:
    for value in values:
        click.echo(json.dumps(value))


def main() -> NoReturn:
    """Run a verb and turn what happened into an exit code."""
    sys.exit(_run())


def _run() -> int:
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except ConfigError as error:
        click.echo(str(error), err=True)
        return CONFIGURATION
    except NoDaemon as error:
        click.echo(f"{error}\nstart it with: suno-videod serve", err=True)
        return TRANSIENT
    except DaemonRefused as error:
        click.echo(str(error), err=True)
        return {NOT_FOUND: FAILED, UNPROCESSABLE: USAGE}.get(error.status, UNEXPECTED)
    return code if isinstance(code, int) else 0
