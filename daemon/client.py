"""Talks to a running daemon through its admin socket, for the command line.

Rule: every failure says what happened and which command comes next. The standard library's client
is enough here, and starts in a tenth of the time.
"""

import http.client
import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from daemon.config import SEARCHED, Loaded

SYSTEM_SOCKET = Path("/run/suno-videod/admin.sock")
SECONDS = 30.0
PAGE = 1_000


class NoDaemon(Exception):
    """Nothing answers on the socket; `hint` says what to do."""

    def __init__(self, message: str, hint: str = "start it with: suno-videod serve") -> None:
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
    return next((place for place in places if place.exists()), places[0])


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=SECONDS)
        self._path = path

    def connect(self) -> None:  # type: ignore[explicit-override]  # typing.override is 3.12
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Client:
    """The admin API of one daemon."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, path: str, query: Sequence[tuple[str, str]] = ()) -> Any:
        """Return the decoded body of a GET."""
        return self._call("GET", f"{path}?{urlencode(query)}" if query else path)[1]

    def post(self, path: str, body: object = None) -> tuple[int, Any]:
        """Return status and decoded body of a POST."""
        return self._call("POST", path, None if body is None else json.dumps(body).encode())

    def task(self, task_id: str) -> Any:
        """Return one task with its history."""
        return self.get(f"/v1/tasks/{quote(task_id, safe='')}")

    def retry(self, task_id: str) -> Any:
        """Ask and fetch one task again, now."""
        return self.post(f"/v1/tasks/{quote(task_id, safe='')}/retry")[1]

    def tasks(self, states: Sequence[str] = (), limit: int | None = None) -> Iterator[Any]:
        """Yield tasks, the newest first, page by page."""
        yield from self._pages("/v1/tasks", "tasks", [("state", state) for state in states], limit)

    def quarantine(self) -> Iterator[Any]:
        """Yield the callbacks that could not be read."""
        yield from self._pages("/v1/quarantine", "quarantine", [], None)

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

    def _call(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
        connection = _Connection(self.path)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            status, text = response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise _no_daemon(self.path, error) from error
        finally:
            connection.close()
        try:
            found = json.loads(text)
            if status < 400:  # noqa: PLR2004 - the error classes
                return status, found
            problem = found["error"]
            refused = DaemonRefused(status, problem["code"], problem["message"])
        except (ValueError, LookupError, TypeError):
            raise NoDaemon(f"what answers on {self.path} is not suno-videod") from None
        raise refused


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
