"""Talks to a running daemon through its admin socket, for the command line.

Rule: every failure says what happened and which command comes next. The standard library's client
is enough here, and starts in a tenth of the time.
"""

import http.client
import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

from daemon.config import SEARCHED, Loaded

SYSTEM_SOCKET = Path("/run/suno-videod/admin.sock")
SECONDS = 30.0
SUBMIT_SECONDS = 90.0
"""A submit waits for the check before it and for the provider's word."""
TEST_SECONDS = 45.0
"""Each target has up to 30 s, and all have them at once."""
QUIET_SECONDS = 45.0
"""A stream of events has a sign of life every 15 seconds: after three the daemon is gone."""
PAGE = 1_000
TEXT_CUT = 201
"""Characters: more than any id or label has. Megabytes would be refused unread."""


_START: Final = (
    "no callback is taken and no video fetched until it runs; what is in the ledger is safe\n"
    "start it: systemctl start suno-videod (outside systemd: suno-videod serve)\n"
    "why it ended: suno-videod logs --level error"
)


class NoDaemon(Exception):
    """Nothing answers on the socket; `hint` says what to do."""

    def __init__(self, message: str, hint: str = _START) -> None:
        super().__init__(message)
        self.hint = hint


class DaemonRefused(Exception):
    """The daemon answered with an error; `status` is HTTP's."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


def find_socket(loaded: Loaded, environ: Mapping[str, str]) -> Path:
    """Return the socket to talk to: configured, of this unit, of this user, of this system."""
    if loaded.origins["admin.socket"] != "default":
        return loaded.config.admin.socket
    places = [loaded.config.state_dir / "admin.sock"]
    runtime = environ.get("RUNTIME_DIRECTORY")
    if runtime:
        places.insert(0, Path(runtime) / "admin.sock")
    if loaded.path is None or loaded.path == SEARCHED[-1]:
        places.append(SYSTEM_SOCKET)
    return next(filter(_may_exist, places), places[0])


def _may_exist(place: Path) -> bool:
    """Tell whether something may be there; in a folder that is closed to us we see nothing."""
    try:
        return place.exists()
    except PermissionError:
        return True


def is_held(given_id: str) -> bool:
    """Tell whether an id is that of a callback in quarantine."""
    return given_id.startswith("quarantine-")


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:  # type: ignore[explicit-override]  # typing.override is 3.12
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Client:
    """The admin API of one daemon."""

    def __init__(self, path: Path, seconds: float = SECONDS) -> None:
        self.path = path
        self._seconds = seconds

    def get(self, path: str, query: Sequence[tuple[str, str]] = ()) -> Any:
        """Return the decoded body of a GET."""
        # Arguments may be bytes that are no text: they name nothing, and the daemon says so.
        asked = urlencode(query, errors="surrogateescape")
        return self._call("GET", f"{path}?{asked}" if query else path, None, self._seconds)[1]

    def post(self, path: str, body: object = None, seconds: float = SECONDS) -> tuple[int, Any]:
        """Return status and decoded body of a POST."""
        text = None if body is None else json.dumps(body).encode()
        return self._call("POST", path, text, seconds)

    def submit(self, wish: object) -> Any:
        """Submit a video and return its task."""
        return self.post("/v1/tasks", wish, SUBMIT_SECONDS)[1]["tasks"][0]

    def test_targets(self) -> list[Any]:
        """Send a test event to every `[[notify]]`; return what came of each."""
        answer = self.post("/v1/notifications/test", seconds=TEST_SECONDS)[1]
        return list(answer["targets"])

    def task(self, task_id: str) -> Any:
        """Return one task with its history."""
        return self.get(_place("tasks", task_id))

    def retry(self, task_id: str, *, force: bool = False) -> Any:
        """Ask and fetch one task again, now."""
        return self.post(f"{_place('tasks', task_id)}/retry", {"force": force})[1]

    def forget(self, given_id: str) -> Any:
        """Acknowledge a task, or a callback in quarantine."""
        kind = "quarantine" if is_held(given_id) else "tasks"
        return self.post(f"{_place(kind, given_id)}/forget")[1]

    def diagnose_task(self, task_id: str) -> Any:
        """Return one task, and what the provider says about it now."""
        return self.get(f"{_place('tasks', task_id)}/diagnosis")

    def held(self, held_id: str) -> Any:
        """Return one callback that could not be read."""
        return self.get(_place("quarantine", held_id))

    def export(self) -> Iterator[Any]:
        """Yield all tasks with their histories, the newest first."""
        yield from self._pages("/v1/export", "tasks", [], None)

    def balances(self, since_ms: int) -> list[Any]:
        """Return the balances since then, and the last one before."""
        found: list[Any] = self.get("/v1/credits", [("since", str(since_ms))])["credits"]
        return found

    def tasks(self, states: Sequence[str] = (), limit: int | None = None) -> Iterator[Any]:
        """Yield tasks, the newest first, page by page."""
        yield from self._pages("/v1/tasks", "tasks", [("state", state) for state in states], limit)

    def quarantine(self, limit: int | None = None) -> Iterator[Any]:
        """Yield the callbacks that could not be read, the newest first."""
        yield from self._pages("/v1/quarantine", "quarantine", [], limit)

    def _pages(
        self, path: str, member: str, query: list[tuple[str, str]], limit: int | None
    ) -> Iterator[Any]:
        after: str | None = None
        left = limit
        while left is None or left > 0:
            size = PAGE if left is None else min(PAGE, left)
            cursor = [("after", after)] if after else []
            page = self.get(path, [*query, ("limit", str(size)), *cursor])
            yield from page[member]
            left = None if left is None else left - len(page[member])
            after = page["next"]
            if after is None:
                return

    def events(self) -> "Events":
        """Listen to what happens from now on; what happened before is not told."""
        connection = _Connection(self.path, QUIET_SECONDS)
        try:
            connection.request("GET", "/v1/events", headers={"Accept": "text/event-stream"})
            response = connection.getresponse()
            if response.getheader("Content-Type", "").startswith("text/event-stream"):
                return Events(self.path, connection, response)
            status, text = response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise _no_daemon(self.path, error) from error
        connection.close()
        _read(self.path, max(status, HTTPStatus.BAD_REQUEST), text)
        raise AssertionError("an error is raised")

    def _call(self, method: str, path: str, body: bytes | None, seconds: float) -> tuple[int, Any]:
        connection = _Connection(self.path, seconds)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            status, text = response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise _no_daemon(self.path, error) from error
        finally:
            connection.close()
        return status, _read(self.path, status, text)


class Events:
    """What a running daemon tells, event by event (WHATWG HTML, section 9.2.6).

    A stream that breaks ends with `NoDaemon`: whoever listens again has missed something.
    """

    def __init__(
        self, path: Path, connection: http.client.HTTPConnection, response: http.client.HTTPResponse
    ) -> None:
        self._path = path
        self._connection = connection
        self._response = response

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Yield the name and the data of each event; a sign of life alone has no name."""
        name, data = "message", list[str]()
        try:
            while line := self._response.readline():
                field, _, value = line.decode("utf-8", "replace").rstrip("\r\n").partition(":")
                if field == "event":
                    name = value.removeprefix(" ")
                elif field == "data":
                    data.append(value.removeprefix(" "))
                elif not field:
                    if data:
                        yield name, "\n".join(data)
                    else:
                        yield "", ""
                    name, data = "message", []
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise _no_daemon(self._path, error) from error
        finally:
            self.close()
        raise NoDaemon(f"the daemon on {self._path} ended the stream of its events")

    def close(self) -> None:
        """Listen no more."""
        self._connection.close()


def _read(path: Path, status: int, text: bytes) -> Any:
    try:
        found = json.loads(text)
        if status < HTTPStatus.BAD_REQUEST:
            return found
        problem = found["error"]
        refused = DaemonRefused(status, problem["code"], problem["message"])
    except (ValueError, LookupError, TypeError):
        raise NoDaemon(f"what answers on {path} is not suno-videod") from None
    raise refused


def _place(kind: str, given_id: str) -> str:
    if not given_id:
        raise DaemonRefused(HTTPStatus.NOT_FOUND, "unknown_id", "an empty id names nothing")
    return f"/v1/{kind}/{quote(given_id[:TEXT_CUT], safe='', errors='surrogateescape')}"


def _no_daemon(path: Path, error: Exception) -> NoDaemon:
    if isinstance(error, PermissionError):
        return NoDaemon(
            f"this user may not use {path}", "run the command as root or as the daemon's own user"
        )
    return NoDaemon(f"nothing answers on {path}: {_say(error)}")


def _say(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such socket"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__
