"""Tells the configured `[[notify]]` targets something, each in its own way.

Rule: http(s) hears a body signed by the Standard Webhooks scheme, everybody else a sentence for
people, through Apprise in a process of its own. Whoever is told is shown by its name, never by its
URL, and no error says more.

Source: https://www.standardwebhooks.com/
"""

import asyncio
import json
import secrets
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from standardwebhooks import Webhook

from daemon.config.sections import Notify, Secret
from daemon.hooks import Unwelcome, call_hook
from daemon.logs import mask
from daemon.outbound import Session
from daemon.rules.failure import Reason, Trouble
from daemon.rules.notification import EVENTS, TEST, TEST_DATA, advise, write_text
from daemon.rules.target import is_web, key_of, name_of
from daemon.rules.ulid import make_ulid
from daemon.views import show_time

ANSWER_SECONDS: Final = 15.0
HERALD_SECONDS: Final = 30.0
"""How long telling people may take, with the start of the program that does it."""
HERALD: Final = (sys.executable, "-I", "-m", "daemon.herald")
# Neither our secrets nor a proxy.
_ENVIRONMENT: Final = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}


@dataclass(frozen=True, slots=True)
class Target:
    """One `[[notify]]`."""

    key: str
    """What it is called in the ledger."""
    name: str
    """What it is called to people: its number and the harmless part of its URL."""
    url: Secret
    secret: Secret | None
    events: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Note:
    """One event; `id` stays the same over all tries."""

    id: str
    type: str
    at: int
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of telling one target a test event."""

    target: Target
    status: int | None
    seconds: float
    error: str | None

    @property
    def advice(self) -> str | None:
        """What to do."""
        if self.error is None:
            return None
        return advise(self.status, web=is_web(self.target.url.reveal()))


class Targets:
    """The targets of the configuration as it holds now."""

    def __init__(
        self, session: Session, section: Callable[[], Sequence[Notify]], now: Callable[[], int]
    ) -> None:
        self._session = session
        self._section = section
        self._now = now

    def all(self) -> list[Target]:
        """Return the targets in the order of the configuration."""
        return [_read(number, entry) for number, entry in enumerate(self._section(), 1)]

    def find(self, key: str) -> Target | None:
        """Return the target with this key, where it is still configured."""
        return next((target for target in self.all() if target.key == key), None)

    def subscriptions(self) -> set[tuple[str, str]]:
        """Return who is to hear of what: pairs of event and key."""
        return {(event, target.key) for target in self.all() for event in target.events}

    async def tell(self, target: Target, note: Note) -> int | None:
        """Tell a target; return the HTTP status, None where people were told.

        Raises:
            Trouble: it did not take it.
        """
        if is_web(target.url.reveal()):
            return await self._post(target, note)
        await _speak(target, note)
        return None

    async def test(self) -> list[Trial]:
        """Tell all at once that this is a test; return what came of each, in their order."""
        at = self._now()
        note = Note(f"test-{make_ulid(at, secrets.token_bytes(10))}", TEST, at, TEST_DATA)
        return await asyncio.gather(*(self._try(target, note) for target in self.all()))

    async def _try(self, target: Target, note: Note) -> Trial:
        began = time.monotonic()
        status, error = None, None
        try:
            status = await self.tell(target, note)
        except Trouble as trouble:
            error = mask(trouble.message)
            status = trouble.status if isinstance(trouble, Unwelcome) else None
        return Trial(target, status, round(time.monotonic() - began, 3), error)

    async def _post(self, target: Target, note: Note) -> int:
        told = {"type": note.type, "timestamp": show_time(note.at), "data": note.data}
        body = json.dumps(told, separators=(",", ":"))
        seconds = self._now() // 1000
        headers = {
            "Content-Type": "application/json",
            "webhook-id": note.id,
            "webhook-timestamp": str(seconds),
            # Our own admin API, should somebody name it, refuses what says so.
            "Sec-Fetch-Site": "cross-site",
        }
        if target.secret is not None:
            # Of the try: a receiver refuses a time that is minutes away from its own.
            at = datetime.fromtimestamp(seconds, UTC)
            seal = Webhook(target.secret.reveal()).sign(msg_id=note.id, timestamp=at, data=body)
            headers["webhook-signature"] = seal
        url = target.url.reveal()
        return await call_hook(
            self._session, "POST", url, ANSWER_SECONDS, body=body.encode(), headers=headers
        )


def _read(number: int, entry: Notify) -> Target:
    url = entry.url.reveal()
    name = f"notify[{number}] {name_of(url)}"
    return Target(key_of(url), name, entry.url, entry.secret, entry.events or EVENTS)


async def _speak(target: Target, note: Note) -> None:
    title, text = write_text(note.type, note.data)
    wish = {"url": target.url.reveal(), "title": title, "text": text}
    try:
        async with asyncio.timeout(HERALD_SECONDS):
            answer = await _run_herald(wish)
    except TimeoutError:
        told = f"not told within {HERALD_SECONDS:g} s, and given up"
        raise Trouble(Reason.STALLED, told) from None
    except OSError as error:
        told = f"the program that tells people cannot be started: {error.strerror}"
        raise Trouble(Reason.NETWORK, told) from None
    if not answer.get("sent"):
        raise Trouble(Reason.NETWORK, answer.get("said") or "the service did not take it")


async def _run_herald(wish: Mapping[str, str]) -> dict[str, Any]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *HERALD, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.DEVNULL, env=_ENVIRONMENT
    )
    try:
        output, _ = await process.communicate(json.dumps(wish).encode())
    finally:
        # Whoever hangs, and whoever we do not wait for any more.
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    try:
        answer: dict[str, Any] = json.loads(output)
    except ValueError:
        return {"said": f"Apprise ended without an answer (exit code {process.returncode})"}
    return answer
