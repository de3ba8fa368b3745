"""The whole main job on this machine, offline, in under a minute.

Rule: nothing is pretended. The simulated provider and the daemon are two real processes that talk
over real sockets, and the end is judged from the files on the disk and the daemon's own ledger.
"""

import hashlib
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import click

from daemon.client import Client, DaemonRefused, NoDaemon
from daemon.wording import size

API_KEY: Final = "demo-key-of-the-simulated-provider"
TOKEN: Final = "demo-token-for-the-callback-path"  # noqa: S105 - it guards nothing
START_SECONDS: Final = 20.0
JOB_SECONDS: Final = 45.0
BAR: Final = 20

_CONFIGURATION: Final = """\
state_dir = "state"

[callback]
listen = "127.0.0.1:{port}"
public_url = "http://127.0.0.1:{port}/video-callback"
tokens = ["{token}"]

[provider]
base_url = "{provider}"
api_key = "{key}"
requests_per_second = 5

[poll]
first_after = "2s"
interval = "2s"

[download]
directory = "videos"
allow_http = true
allow_private = ["127.0.0.0/8"]
retry_first = "500ms"

[disk]
min_free = "64M"
"""


class DemoFailed(Exception):
    """Something is not as promised; the text says what."""


@dataclass(frozen=True, slots=True)
class Act:
    """One task of the demo: which scenario the simulator plays, and what it shows."""

    audio_id: str
    label: str
    shows: str


ACTS: Final = (
    Act("demo-good", "good callback", "callback, download, verified"),
    Act("sim-lost-callback", "lost callback", "no callback ever came: the provider was asked"),
    Act("sim-duplicate-callback", "duplicate callback", "sent again and again, downloaded once"),
    Act("sim-broken-download", "broken download", "cut after 1 MB, resumed, not fetched twice"),
)


def run_demo(directory: Path | None) -> int:
    """Play all acts; return 0 when everything is as promised, else 1."""
    folder = directory or Path(tempfile.mkdtemp(prefix="suno-videod-demo-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with ExitStack() as stack:
            _play(folder.resolve(), stack)
    except (DemoFailed, DaemonRefused, NoDaemon) as failure:
        click.echo(f"\nnot as promised: {failure}\nthe logs are in {folder}", err=True)
        return 1
    return 0


def _play(folder: Path, stack: ExitStack) -> None:
    click.echo(f"1. a simulated provider and the daemon start in {folder}")
    provider = stack.enter_context(_started(folder, "provider.log", _simulate()))
    base_url = _wait_for(provider, _find_url)
    settings = folder / "config.toml"
    settings.touch(0o600)
    settings.write_text(
        _CONFIGURATION.format(token=TOKEN, provider=base_url, key=API_KEY, port=_find_port())
    )
    daemon = stack.enter_context(_started(folder, "daemon.log", ["-c", str(settings), "serve"]))
    _wait_for(daemon, _find_ready)
    click.echo(
        "2. four videos are asked for; each wish is recorded before the provider hears of it"
    )
    client = Client(folder / "state" / "admin.sock")
    acts = {_submit(client, act): act for act in ACTS}
    click.echo("3. the provider renders, calls back (or not), and the videos are fetched")
    _watch(client, acts)
    click.echo("4. what is on the disk")
    log = [json.loads(line) for line in daemon.log.read_text().splitlines()]
    for task_id, act in acts.items():
        click.echo(_judge(client.task(task_id), act, log))
    click.echo(f"\nall as promised; the videos are in {folder / 'videos'}")


@dataclass(frozen=True, slots=True)
class _Child:
    process: "subprocess.Popen[bytes]"
    log: Path


def _simulate() -> list[str]:
    options = {"--listen": "127.0.0.1:0", "--api-key": API_KEY}
    options |= {"--render-seconds": "2", "--file-size": "12M", "--speed": "2M"}
    return ["simulate", *(word for pair in options.items() for word in pair)]


@contextmanager
def _started(folder: Path, log_name: str, arguments: list[str]) -> Iterator[_Child]:
    log = folder / log_name
    with log.open("wb") as output:
        process = _start(arguments, output)
        try:
            yield _Child(process, log)
        finally:
            process.terminate()
            try:
                process.wait(START_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _start(arguments: list[str], output: IO[bytes]) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "daemon", *arguments]
    return subprocess.Popen(command, stdout=output, stderr=output)  # noqa: S603 - our own program


def _wait_for(child: _Child, find: Any) -> str:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        found = find(child.log.read_text())
        if found:
            return str(found)
        if child.process.poll() is not None:
            break
        time.sleep(0.05)
    raise DemoFailed(f"a process did not start:\n{child.log.read_text()}")


def _find_url(log: str) -> str | None:
    return next((word for word in log.split() if word.startswith("http://")), None)


def _find_ready(log: str) -> str | None:
    return next((line for line in log.splitlines() if '"daemon.ready"' in line), None)


def _submit(client: Client, act: Act) -> str:
    wish = {"music_task_id": "demo-music", "audio_id": act.audio_id, "label": act.label}
    return str(client.submit(wish)["task_id"])


def _find_port() -> int:
    """Return a port that is free now: the provider has to be told where to call."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _watch(client: Client, acts: Mapping[str, Act]) -> None:
    live = sys.stdout.isatty()
    shown: list[str] = []
    until = time.monotonic() + JOB_SECONDS
    while True:
        tasks = [client.task(task_id) for task_id in acts]
        lines = [_draw(task) for task in tasks]
        if live and shown:
            click.echo(f"\x1b[{len(shown)}A", nl=False)
        for number, line in enumerate(lines):
            if live:
                click.echo(f"\x1b[2K{line}")
            elif not shown or shown[number] != line:
                click.echo(line)
        shown = lines
        if all(task["state"] == "done" for task in tasks):
            return
        if time.monotonic() > until:
            raise DemoFailed(f"not done after {JOB_SECONDS:.0f} seconds")
        time.sleep(0.2)


def _draw(task: Mapping[str, Any]) -> str:
    total, received = task["size_bytes"], task["received_bytes"]
    filled = int(BAR * received / total) if total else 0
    bar = "#" * filled + "." * (BAR - filled)
    return f"   {task['label']:<20} {task['state']:<9} [{bar}] {size(received):>7}"


def _judge(task: Mapping[str, Any], act: Act, log: list[dict[str, Any]]) -> str:
    """Check one act against the file on the disk and the daemon's log."""
    path = Path(task["path"])
    content = path.read_bytes()
    finished = [
        line
        for line in log
        if line["event"] == "download.finished" and line["task_id"] == task["task_id"]
    ]
    expected = {
        "the file is whole": len(content) == task["size_bytes"],
        "its SHA-256 is the ledger's": hashlib.sha256(content).hexdigest() == task["sha256"],
        "it was downloaded once": len(finished) == 1,
    }
    if act.audio_id == "sim-lost-callback":
        expected["no callback came"] = task["callbacks"] == 0
    if act.audio_id == "sim-duplicate-callback":
        expected["the callback came more than once"] = task["callbacks"] > 1
    if act.audio_id == "sim-broken-download":
        expected["the download resumed"] = bool(finished and finished[0]["resumed_bytes"] > 0)
    wrong = [what for what, holds in expected.items() if not holds]
    if wrong:
        raise DemoFailed(f"{act.label}: not true that {', and '.join(wrong)}")
    facts = (
        f"{size(task['size_bytes'])}, {task['duration_seconds']:.1f} s, "
        f"{task['width']}x{task['height']}, {task['video_codec']}+{task['audio_codec']}"
    )
    return f"   {act.label}: {act.shows}\n      {path}\n      {facts}"
