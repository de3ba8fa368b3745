"""What became of a request for a video, and what follows from it?

Rule: a video is never paid for twice as far as the provider allows, and never forgotten. A request
is sent again by itself only when it certainly was not accepted, or once when nobody knows: then
the provider's own "exists already" tells which task it was.

Source: https://docs.sunoapi.org/suno-api/create-music-video (answers, 409 with `data.taskId`);
kie.ai answers 422 with "already exists" instead of 409.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from daemon.rules.dialect import Outcome
from daemon.rules.failure import Reason
from daemon.rules.notice import TASK_ID, Answer, open_envelope, read_code
from daemon.rules.schedule import MINUTE, SECOND, backoff

TEXT_LIMIT: Final = 50
"""Characters of `author` and `domainName` (https://docs.sunoapi.org/suno-api/create-music-video)."""
DOUBTS_LIMIT: Final = 2
"""Calls of unknown outcome, the first included, before a person has to look."""
NOWHERE: Final = "https://callback.invalid/none"
"""The provider insists on a `callBackUrl`; no name below .invalid resolves (RFC 6761, 6.4)."""
RESEND_FIRST_MS: Final = 5 * SECOND
RESEND_LIMIT_MS: Final = 10 * MINUTE
ODD_LIMIT: Final = 100
"""Characters of an id that is none, for a person to search for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A video that somebody wants: one track of a music task, and the words on the film."""

    music_task_id: str
    audio_id: str
    author: str | None = None
    domain_name: str | None = None
    application_url: str | None = None
    """Where the application behind the gateway wants to be called."""

    def body(self, callback_url: str) -> dict[str, str]:
        """Return the body of the call."""
        given = {"author": self.author, "domainName": self.domain_name}
        return {
            "taskId": self.music_task_id,
            "audioId": self.audio_id,
            "callBackUrl": callback_url,
            **{name: value for name, value in given.items() if value is not None},
        }


@dataclass(frozen=True, slots=True)
class Intent:
    """A wish in the ledger, recorded before the provider was asked."""

    id: int
    task: int
    """The row of its task."""
    local_id: str
    music_task_id: str
    audio_id: str
    author: str | None
    domain_name: str | None
    application_url: str | None
    send_at: int | None
    """When it is sent; None when it is settled, on its way, or waits for a person."""
    calling: int
    """1: on its way. After a crash nobody knows what became of it."""
    doubts: int
    """Calls whose outcome nobody knows."""
    unheard: int
    """Those that brought no readable word: each may have been accepted, as far as anybody knows."""
    tries: int
    created_at: int
    settled_at: int | None

    def wish(self) -> Wish:
        """Return what is wanted."""
        return Wish(
            music_task_id=self.music_task_id,
            audio_id=self.audio_id,
            author=self.author,
            domain_name=self.domain_name,
            application_url=self.application_url,
        )


class Fate(Enum):
    """What became of one call."""

    TAKEN = "taken"
    """The provider makes the video; its id is known."""
    EXISTED = "existed"
    """The provider has a video of this track already; its id may be known."""
    REFUSED = "refused"
    """No video is made, and the same request would be refused again."""
    DEFERRED = "deferred"
    """Nothing happened; the same request may succeed later."""
    UNKNOWN = "unknown"
    """Nobody knows whether it was accepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What one call brought; `outcome` is what it means for all our calls."""

    fate: Fate
    outcome: Outcome
    task_id: str | None = None
    reason: Reason | None = None
    message: str = ""
    code: int | None = None


_REFUSALS: Mapping[int, Reason] = {
    400: Reason.BAD_REQUEST,
    413: Reason.BAD_REQUEST,
    422: Reason.BAD_REQUEST,
    451: Reason.SOURCE_AUDIO,
    501: Reason.GENERATE_FAILED,
    505: Reason.PROVIDER_ERROR,
    531: Reason.GENERATE_FAILED,
}
_ACCOUNT: Mapping[Outcome, Reason] = {
    Outcome.KEY: Reason.UNAUTHORIZED,
    Outcome.CREDITS: Reason.OUT_OF_CREDITS,
}
_PAUSED = (Outcome.RATE, Outcome.MAINTENANCE)
_GATED = (*_PAUSED, *_ACCOUNT)
_CONFLICT = 409
_UNPROCESSABLE = 422
_NOT_FOUND = 404
_BAD_REQUEST = 400
_REQUEST_TIMEOUT = 408
_SERVER_ERROR = 500


def read_receipt(kind: str, status: int, body: bytes) -> Receipt:
    """Read what `generate` answered.

    Whoever names a task is believed, whatever else the answer says: asking about it is free.
    """
    found = open_envelope(kind, status, body)
    data = _read_document(body).get("data")
    task_id = _read_task_id(data)
    if isinstance(found, Answer):
        receipt = _read_refusal(found, body)
        if task_id is None or receipt.outcome in _GATED:
            return receipt
        fate = Fate.EXISTED if receipt.fate is Fate.EXISTED else Fate.TAKEN
        return replace(receipt, fate=fate, task_id=task_id, reason=None)
    code, message, _ = found
    if task_id is not None:
        return Receipt(
            fate=Fate.TAKEN, outcome=Outcome.ANSWERED, task_id=task_id, message=message, code=code
        )
    if isinstance(data, dict) and data.get("taskId", data.get("task_id")) is not None:
        odd = repr(data.get("taskId", data.get("task_id")))[:ODD_LIMIT]
        told = f"the provider took it, and calls it {odd}, which is no task id"
        return Receipt(fate=Fate.TAKEN, outcome=Outcome.ODD, message=told, code=code)
    return Receipt(
        fate=Fate.UNKNOWN, outcome=Outcome.ODD, message="the answer names no task", code=code
    )


def _read_refusal(answer: Answer, body: bytes) -> Receipt:
    told = read_code(_read_document(body).get("code"))
    # Without a code in the body, `answer.code` is the HTTP status, perhaps of a proxy.
    has_code = told is not None and told == answer.code
    if _is_duplicate(answer.code, answer.message):
        return Receipt(
            fate=Fate.EXISTED, outcome=Outcome.ANSWERED, message=answer.message, code=answer.code
        )
    fate, reason = _judge_refusal(answer, has_code=has_code)
    alone = fate is Fate.REFUSED and answer.outcome not in _ACCOUNT
    return Receipt(
        fate=fate,
        # A no that is about this request alone shows that the API lives.
        outcome=Outcome.ODD if alone else answer.outcome,
        reason=reason,
        message=answer.message,
        code=answer.code,
    )


def _is_duplicate(code: int | None, message: str) -> bool:
    """409, or 422 with these words: the only text of a provider that decides anything."""
    told = re.search(r"already\s+exist", message, re.IGNORECASE) is not None
    return code == _CONFLICT or (code == _UNPROCESSABLE and told)


def _judge_refusal(answer: Answer, *, has_code: bool) -> tuple[Fate, Reason | None]:
    code = answer.code or 0
    if answer.outcome in _ACCOUNT:
        return Fate.REFUSED, _ACCOUNT[answer.outcome]
    # A 404 may come from a mistyped base_url, which must not end anything.
    if answer.outcome in _PAUSED or code == _NOT_FOUND:
        return Fate.DEFERRED, None
    if code in _REFUSALS and has_code:
        return Fate.REFUSED, _REFUSALS[code]
    if code == _REQUEST_TIMEOUT or code >= _SERVER_ERROR:
        return Fate.UNKNOWN, Reason.PROVIDER_ERROR if has_code else None
    if code < _BAD_REQUEST:
        return Fate.UNKNOWN, None
    return (Fate.REFUSED, Reason.PROVIDER_ERROR) if has_code else (Fate.DEFERRED, None)


def _read_document(body: bytes) -> Mapping[str, object]:
    try:
        # As `open_envelope` does it: a text that is cut within a character hides no task id.
        document = json.loads(body.decode("utf-8-sig", "surrogateescape"))
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _read_task_id(data: object) -> str | None:
    if not isinstance(data, dict):
        return None
    for value in (data.get("taskId"), data.get("task_id")):
        whole = isinstance(value, int) and not isinstance(value, bool)
        text = str(value) if whole else value
        if isinstance(text, str) and TASK_ID.fullmatch(text):
            return text
    return None


class Next(Enum):
    """What is done with an intent after a call."""

    NAME = "name"
    """Its task gets the provider's id."""
    FAIL = "fail"
    """Its task failed."""
    RESEND = "resend"
    """It is sent again, at `send_at`."""
    LEAVE_OPEN = "leave_open"
    """A person has to look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What follows for an intent."""

    next: Next
    doubts: int
    unheard: int = 0
    send_at: int | None = None
    reason: Reason | None = None
    message: str | None = None


def judge_receipt(
    intent: Intent, receipt: Receipt, now: int, luck: float, *, patient: bool = True
) -> Decision:
    """Decide what follows from a call for `intent`, whose `tries` counts this one.

    `patient` false: whoever asked hears "come back later" and decides alone, so nothing is sent
    again after that, unless an earlier call may have been accepted: that one is looked after.
    """
    doubts, unheard = intent.doubts, intent.unheard

    def decide(
        step: Next,
        message: str | None = receipt.message,
        *,
        reason: Reason | None = None,
        send_at: int | None = None,
    ) -> Decision:
        return Decision(
            next=step,
            doubts=doubts,
            unheard=unheard,
            send_at=send_at,
            reason=reason,
            message=message,
        )

    if receipt.task_id is not None:
        return decide(Next.NAME, None)
    if receipt.fate is Fate.UNKNOWN:
        doubts, unheard = doubts + 1, unheard + (receipt.reason is None)
        if doubts < DOUBTS_LIMIT:
            return decide(Next.RESEND, send_at=now)
        if unheard == 0:
            # Every time a readable error of the server: no video was made.
            return decide(Next.FAIL, reason=receipt.reason)
        return decide(Next.LEAVE_OPEN)
    if receipt.fate in {Fate.TAKEN, Fate.EXISTED}:
        told = "the provider has a video of this track already, and did not say its id: "
        told = told if receipt.fate is Fate.EXISTED else ""
        return decide(Next.LEAVE_OPEN, f"{told}{receipt.message}")
    # The state of the account says nothing of a call before: it may have spent the last credits.
    passing = receipt.fate is Fate.DEFERRED or receipt.reason in _ACCOUNT.values()
    if passing and (doubts + unheard or (patient and receipt.fate is Fate.DEFERRED)):
        pause = backoff(intent.tries, RESEND_FIRST_MS, RESEND_LIMIT_MS, luck)
        return decide(Next.RESEND, send_at=now + pause)
    if unheard:
        told = f"refused now, but an earlier call may have been accepted: {receipt.message}"
        return decide(Next.LEAVE_OPEN, told)
    return decide(Next.FAIL, reason=receipt.reason or Reason.PROVIDER_ERROR)
