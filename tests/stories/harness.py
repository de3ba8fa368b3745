"""Starts the real programs for the stories, watches them and ends them.

Rule: no child outlives its story, whatever happens; children are ended by their own id. A story
that broke anything inside the daemon fails at its end even when all it asserts holds.
"""

import asyncio
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp

from daemon.client import Client
from daemon.config import environment

TOKEN: Final = "story-token-of-the-callback-path"
API_KEY: Final = "story-key-of-the-simulated-provider"
TASK_FIELDS: Final = [
    *("task_id", "label", "state", "reason", "message", "provider_code", "source"),
    *("music_task_id", "audio_id", "unconfirmed", "created_at", "updated_at", "stored_at"),
    *("deadline_at", "next_attempt_at", "attempts", "callbacks", "size_bytes", "received_bytes"),
    *("sha256", "path", "duration_seconds", "width", "height", "video_codec", "audio_codec"),
    *("audio_sample_rate", "finish_error", "forgotten_at"),
]
"""A task in JSON: a contract, in order."""
PATIENCE_SECONDS: Final = 25.0

Section = Mapping[str, object]

_COMMAND = (sys.executable, "-m", "daemon")
_SETTINGS: Mapping[str, Section] = {
    "callback": {"listen": "127.0.0.1:0", "tokens": [TOKEN]},
    "provider": {"api_key": API_KEY, "requests_per_second": 100, "credits_low": 0},
    "poll": {"first_after": "200ms", "interval": "200ms"},
    "download": {
        "directory": "videos",
        "allow_http": True,
        "allow_private": ["127.0.0.0/8"],
        "retry_first": "50ms",
        "retry_max": "1s",
    },
    "disk": {"min_free": "1M"},
    "log": {"level": "debug"},
}


def write_toml(sections: Mapping[str, Section]) -> str:
    """Return sections as TOML; a key whose value is None is left out."""
    lines = ['state_dir = "state"']
    for name, section in sections.items():
        lines += ["", f"[{name}]"]
        # A JSON string, number, truth value or array is TOML as well.
        lines += [
            f"{key} = {json.dumps(value)}" for key, value in section.items() if value is not None
        ]
    return "\n".join(lines) + "\n"


def configure(base_url: str, **changes: Section) -> str:
    """Return a configuration for `base_url` with short intervals, and with `changes`."""
    names = dict.fromkeys([*_SETTINGS, *changes])
    merged = {name: {**_SETTINGS.get(name, {}), **changes.get(name, {})} for name in names}
    merged["provider"].setdefault("base_url", base_url)
    return write_toml(merged)


class Heard(NamedTuple):
    """What a listener answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Ended(NamedTuple):
    """How a program ended that was waited for."""

    code: int
    output: str
    errors: str


class Daemon:
    """The daemon of one story: one folder, one process at a time.

    `expect_errors` is for a story in which the log must have lines of level error.
    """

    def __init__(self, folder: Path, settings: str, *, expect_errors: bool = False) -> None:
        self.folder = folder
        self.config = folder / "config.toml"
        self.config.write_text(settings)
        self.config.chmod(0o600)
        self.client = Client(folder / "state" / "admin.sock")
        self.videos = folder / "videos"
        self.callback = ""
        self.ready: Mapping[str, Any] = {}
        self.expect_errors = expect_errors
        self._runs = 0
        self._process: subprocess.Popen[Any] | None = None

    @property
    def url(self) -> str:
        """The whole address that a provider is given."""
        return f"{self.callback}/{TOKEN}"

    @property
    def process(self) -> "subprocess.Popen[Any]":
        """The newest process."""
        assert self._process is not None
        return self._process

    def spawn(self, **environ: str) -> None:
        """Start a process and return at once; its log goes to a file of its own."""
        self._runs += 1
        with self._file("log").open("wb") as output, self._file("errors").open("wb") as errors:
            self._process = launch(
                *("-c", str(self.config), "serve"),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env={**environment(), **environ},
            )

    def start(self, **environ: str) -> None:
        """Start a process and wait until it says that it is ready."""
        self.spawn(**environ)
        until = time.monotonic() + PATIENCE_SECONDS
        while not (found := self.log("daemon.ready")):
            assert self.process.poll() is None, self.tell()
            assert time.monotonic() < until, self.tell()
            time.sleep(0.02)
        self.ready = found[0]
        self.callback = self.ready.get("callback", "")

    def kill(self) -> None:
        """End the process as a power cut would: nothing is tidied."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """End whatever still runs, politely at first; then look for what broke inside."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        assert not self.errors(), self.tell()
        bad = {"critical"} if self.expect_errors else {"error", "critical"}
        for line in self.history():
            # A warning of a library is a coroutine that nobody awaited, or the like.
            library = line["event"] == "library.message" and line["level"] != "info"
            assert not library, line
            assert line["level"] not in bad, line

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        return await self.ended()

    async def ended(self) -> int:
        """Wait for the end of the process and return its exit code."""
        return await asyncio.to_thread(self.process.wait, PATIENCE_SECONDS)

    async def restart(self) -> None:
        """Start again with the same state."""
        await asyncio.to_thread(self.start)

    def log(self, event: str | None = None, **fields: object) -> list[dict[str, Any]]:
        """Return the lines of the newest process, all or those of an event with these fields."""
        return _choose(self._file("log").read_text(), event, fields)

    def history(self, event: str | None = None, **fields: object) -> list[dict[str, Any]]:
        """Return the lines of all processes, like `log`."""
        texts = (path.read_text() for path in self._all("log"))
        return [line for text in texts for line in _choose(text, event, fields)]

    def errors(self) -> str:
        """Return what all processes wrote to standard error."""
        return "".join(path.read_text() for path in self._all("errors"))

    def tell(self) -> str:
        """Return the last words of the log, for a failed assertion."""
        return "\n".join([*self._file("log").read_text().splitlines()[-25:], self.errors()])

    def _file(self, kind: str) -> Path:
        return self.folder / f"{kind}-{self._runs}.txt"

    def _all(self, kind: str) -> list[Path]:
        return [self.folder / f"{kind}-{run}.txt" for run in range(1, self._runs + 1)]

    async def says(self, event: str, **fields: object) -> dict[str, Any]:
        """Wait for a line in the log of the newest process and return it."""
        until = time.monotonic() + PATIENCE_SECONDS
        while not (found := self.log(event, **fields)):
            assert time.monotonic() < until, f"no {event} {fields}\n{self.tell()}"
            await asyncio.sleep(0.02)
        return found[0]

    async def get(self, path: str) -> Any:
        """Return the body of a GET on the admin socket."""
        return await asyncio.to_thread(self.client.get, path)

    async def track(self, *task_ids: str, label: str | None = None) -> Any:
        """Adopt tasks through the admin API and return the answer's body."""
        body = {"task_ids": task_ids, **({} if label is None else {"label": label})}
        return (await asyncio.to_thread(self.client.post, "/v1/tasks", body))[1]

    async def retry(self, task_id: str) -> Any:
        """Ask and fetch again."""
        return await asyncio.to_thread(self.client.retry, task_id)

    async def task(self, task_id: str) -> Any:
        """Return one task with its history."""
        return await asyncio.to_thread(self.client.task, task_id)

    async def tasks(self) -> dict[str, Any]:
        """Return all tasks by id."""
        found = await asyncio.to_thread(lambda: list(self.client.tasks()))
        return {task["task_id"]: task for task in found}

    async def until(self, task_id: str, state: str = "done", **fields: object) -> Any:
        """Wait until a task of the ledger is in a state, with these fields, and return it."""
        until = time.monotonic() + PATIENCE_SECONDS
        wanted = {"state": state, **fields}
        while True:
            task = (await self.tasks()).get(task_id)
            if task is not None and all(task[name] == value for name, value in wanted.items()):
                return await self.task(task_id)
            assert time.monotonic() < until, f"{task}\nis not {wanted}\n{self.tell()}"
            await asyncio.sleep(0.05)

    async def until_all(self, task_ids: set[str], state: str = "done") -> dict[str, Any]:
        """Wait until all these tasks are in a state and return the ledger."""
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            found = await self.tasks()
            if task_ids <= {name for name, task in found.items() if task["state"] == state}:
                return found
            assert time.monotonic() < until, f"not all {state}\n{self.tell()}"
            await asyncio.sleep(0.1)

    async def gates(self) -> list[str]:
        """Return the names of the gates that are shut."""
        return [gate["name"] for gate in (await self.get("/v1/status"))["gates"]]

    async def post(
        self,
        body: object,
        *,
        token: str = TOKEN,
        headers: Mapping[str, str] | None = None,
        method: str = "POST",
    ) -> Heard:
        """Send a callback (bytes as they stand, anything else as JSON) and return the answer."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await ask(method, f"{self.callback}/{token}", data=data, headers=headers)

    async def call(
        self, path: str, headers: Mapping[str, str], method: str = "GET", body: str = ""
    ) -> Heard:
        """Ask the private listener over TCP."""
        url = self.ready["admin_tcp"] + path
        return await ask(method, url, data=body.encode(), headers=headers)

    def verb(self, *arguments: str, stdin: str = "") -> Ended:
        """Run a verb of the command line with this daemon's configuration."""
        return run_verb("-c", str(self.config), *arguments, stdin=stdin)

    async def run(self, *arguments: str) -> Ended:
        """Run a verb beside the test's own event loop."""
        return await asyncio.to_thread(self.verb, *arguments)


def launch(*arguments: str, **options: Any) -> "subprocess.Popen[Any]":
    """Start our program and return at once; `options` are those of `Popen`."""
    return subprocess.Popen([*_COMMAND, *arguments], **options)  # noqa: S603 - our own program


def run_verb(
    *arguments: str,
    stdin: str = "",
    cwd: Path | None = None,
    seconds: float = PATIENCE_SECONDS,
    **environ: str,
) -> Ended:
    """Run the command line to its end, its output in pipes; bytes in `stdin` are surrogates."""
    done = subprocess.run(  # noqa: S603 - our own program
        [*_COMMAND, *arguments],
        input=stdin.encode(errors="surrogateescape"),
        capture_output=True,
        timeout=seconds,
        check=False,
        cwd=cwd,
        env={**environment(), **environ},
    )
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())


def _choose(text: str, event: str | None, fields: Mapping[str, object]) -> list[dict[str, Any]]:
    # The last line may still be on its way, or cut by a kill.
    whole = text[: text.rfind("\n") + 1]
    lines = [json.loads(line) for line in whole.splitlines()]
    return [
        line
        for line in lines
        if event in {None, line["event"]}
        and all(line.get(name) == value for name, value in fields.items())
    ]


async def ask(
    method: str, url: str, *, data: bytes = b"", headers: Mapping[str, str] | None = None
) -> Heard:
    """Send one request on a connection of its own and return the answer."""
    async with aiohttp.request(
        method, url, data=BytesIO(data) if data else None, headers=headers, allow_redirects=False
    ) as response:
        return Heard(response.status, dict(response.headers), await response.read())


@contextmanager
def started(*arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a verb beside the test and end it in any case."""
    pipe = subprocess.PIPE
    process = launch(*arguments, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def run_on_terminal(daemon: Daemon, *arguments: str) -> str:
    """Run a verb whose output is a terminal, and return all that it wrote there."""
    ours, theirs = pty.openpty()
    command = ("-c", str(daemon.config), *arguments)
    process = launch(*command, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    text = b""
    # The end of the last writer is EIO (pty(7)).
    with suppress(OSError):
        while piece := os.read(ours, 65_536):
            text += piece
    os.close(ours)
    assert process.wait(20) == 0
    return text.decode().replace("\r\n", "\n")


def read_lines(output: str) -> list[dict[str, Any]]:
    """Return NDJSON as a list."""
    return [json.loads(line) for line in output.splitlines()]
