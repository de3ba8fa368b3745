"""What does a message of the provider say, and is it genuine?

Rule: bytes in, a frozen value out. A message is read completely or refused here; after this module
nobody doubts a field again. No text of the provider (`msg`) ever decides anything.

Sources: https://docs.sunoapi.org/suno-api/create-music-video-callbacks (callback),
https://docs.sunoapi.org/suno-api/get-music-video-details (record-info),
https://docs.kie.ai/suno-api/create-music-video-callbacks,
https://docs.kie.ai/common-api/webhook-verification (signature).
"""

import base64
import binascii
import hashlib
import hmac
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from daemon.rules.dialect import DIALECTS, Outcome
from daemon.rules.failure import Reason
from daemon.rules.rehearsal import find_nonce

MESSAGE_LIMIT: Final = 2048
"""Characters of the provider's text that are kept."""
LINK_LIMIT: Final = 2048
"""Characters; `rules/address` dials no longer one."""
SIGNATURE_WINDOW_SECONDS: Final = 300
"""kie.ai names no tolerance; Stripe, Svix and Standard Webhooks all use five minutes."""

# What begins so is an id of ours, of a submit or of a callback in quarantine.
TASK_ID = re.compile(r"(?!submit-|quarantine-)[A-Za-z0-9_][A-Za-z0-9_.:-]{0,127}")


class Evidence(Enum):
    """What a message proves about a task, the weakest first."""

    NONE = 0
    PENDING = 1
    FAILURE = 2
    SUCCESS = 3


@dataclass(frozen=True, slots=True)
class Notice:
    """What one message says about one task."""

    task_id: str
    evidence: Evidence
    link: str | None
    reason: Reason | None
    message: str
    code: int | None
    audio_id: str | None = None


class Unreadable(Exception):
    """The body is no video callback; the text says why. `signed_id` is the id that was in it.

    `nonce` is there when it is a test callback of ours; its signature covers that.
    """

    def __init__(self, why: str, signed_id: str | None = None, *, nonce: str | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.signed_id = nonce if signed_id is None else signed_id
        self.nonce = nonce


_CALLBACK_FAILURES: Mapping[int, Reason] = {
    400: Reason.BAD_REQUEST,
    401: Reason.UNAUTHORIZED,
    429: Reason.OUT_OF_CREDITS,
    451: Reason.SOURCE_AUDIO,
    500: Reason.PROVIDER_ERROR,
    501: Reason.GENERATE_FAILED,
    531: Reason.GENERATE_FAILED,
}

# Members of `data` that only the callbacks of the provider's other products have: music, WAV,
# stems, cover images, MIDI, voices and kie.ai's market.
_OTHER_KINDS: Final = (
    "callbackType",
    "audioWavUrl",
    "audio_wav_url",
    "vocal_removal_info",
    "vocal_separation_info",
    "images",
    "instruments",
    "voiceId",
    "resultJson",
)


def decode(body: bytes) -> object:
    """Parse JSON; a byte that is no UTF-8 becomes a lone surrogate.

    So it spoils the one field that it stands in, such as a `msg` cut within a character, and not
    the whole message.
    """
    document: object = json.loads(body.decode("utf-8-sig", "surrogateescape"))
    return document


def read_callback(body: bytes, parse: Callable[[bytes], object] = decode) -> Notice:
    """Read the body of a callback; `parse` is `decode`, or what reads every body as it does.

    The set of codes is open: 0 and 2xx with a link is success (kie.ai documents both 0 and 200),
    400, 401, 429, 451 and 5xx are failure, and everything else proves nothing.

    Raises:
        Unreadable: no JSON object, no usable task id, or the callback of another product.
    """
    try:
        document = parse(body)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"not JSON: {type(error).__name__}") from None
    if not isinstance(document, dict):
        raise Unreadable("not a JSON object")
    data = document.get("data")
    inner = data if isinstance(data, dict) else {}
    task_id = _find_task_id(inner, document)
    if "video_url" not in inner and "videoUrl" not in inner:
        for name in _OTHER_KINDS:
            if name in inner or name in document:
                raise Unreadable(f"callback of another kind (it has {name})", task_id)
    if task_id is None:
        raise Unreadable("no task id", nonce=find_nonce(document))
    if not TASK_ID.fullmatch(task_id):
        raise Unreadable("task id has characters that no provider uses", task_id)
    code = read_code(document.get("code"))
    link = first_link(inner.get("video_url"), inner.get("videoUrl"))
    evidence, reason = _judge_callback(code, link)
    message = _read_text(document.get("msg"))
    return Notice(task_id, evidence, link, reason, message, code)


def _judge_callback(code: int | None, link: str | None) -> tuple[Evidence, Reason | None]:
    if code is None:
        return Evidence.NONE, None
    if _is_success(code):
        return (Evidence.SUCCESS if link else Evidence.NONE), None
    if code in _CALLBACK_FAILURES:
        return Evidence.FAILURE, _CALLBACK_FAILURES[code]
    if 500 <= code < 600:  # noqa: PLR2004 - the server error class
        return Evidence.FAILURE, Reason.PROVIDER_ERROR
    return Evidence.NONE, None


def _is_success(code: int) -> bool:
    return code == 0 or 200 <= code < 300  # noqa: PLR2004 - the success class


def _find_task_id(inner: Mapping[str, object], document: Mapping[str, object]) -> str | None:
    """Return the first usable id, else the first text that stands where an id should."""
    places = (
        inner.get("task_id"),
        inner.get("taskId"),
        document.get("task_id"),
        document.get("taskId"),
    )
    texts = [place for place in places if isinstance(place, str)]
    for text in texts:
        if TASK_ID.fullmatch(text):
            return text
    return texts[0] if texts else None


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one call; `notice` is there exactly when the outcome is ANSWERED."""

    outcome: Outcome
    message: str = ""
    code: int | None = None
    notice: Notice | None = None


_CODE_OK = 200
_SERVER_ERROR = 500
_BALANCE_LIMIT = 1e15
"""JSON as Python reads it also has NaN, Infinity and integers that no float can hold."""
_HTTP_TOO_MANY = 429
_HTTP_UNAUTHORIZED = 401

_FLAGS: Mapping[str, tuple[Evidence, Reason | None]] = {
    "PENDING": (Evidence.PENDING, None),
    # Not a failure: the provider could not reach us, and the video may well exist.
    "CALLBACK_EXCEPTION": (Evidence.PENDING, None),
    "CREATE_TASK_FAILED": (Evidence.FAILURE, Reason.CREATE_FAILED),
    "GENERATE_MP4_FAILED": (Evidence.FAILURE, Reason.GENERATE_FAILED),
    # Sibling endpoints of the family spell the flag as a number.
    "3": (Evidence.FAILURE, Reason.GENERATE_FAILED),
}


def read_answer(kind: str, status: int, body: bytes, task_id: str) -> Answer:
    """Read what record-info answered about `task_id`.

    A link that is present means success whatever the flag says; an unknown flag, a missing
    `response` and malformed JSON mean "not final". `data` null is `UNKNOWN`; a 404, by status or
    by code, is only trouble of the call, for a mistyped base URL must not end anything.
    """
    envelope = open_envelope(kind, status, body)
    if isinstance(envelope, Answer):
        return envelope
    code, message, data = envelope
    if data is None and code == _CODE_OK:
        # `msg` says "success" here.
        return Answer(Outcome.UNKNOWN, "the provider does not know this task", code)
    if not isinstance(data, dict):
        return _odd("the answer's data is not an object", code)
    named = data.get("taskId", data.get("task_id"))
    if isinstance(named, str) and named and named != task_id:
        return _odd("the answer is about another task", code)
    response = data.get("response")
    inner = response if isinstance(response, dict) else {}
    link = first_link(
        inner.get("videoUrl"), inner.get("video_url"), data.get("videoUrl"), data.get("video_url")
    )
    evidence, reason = _judge_flag(data.get("successFlag", data.get("status")), link)
    notice = Notice(
        task_id=task_id,
        evidence=evidence,
        link=link,
        reason=reason,
        message=_read_text(data.get("errorMessage")) or message,
        code=read_code(data.get("errorCode")) if evidence is Evidence.FAILURE else code,
        # sunoapi.org's own example has the id of the track as `musicId`.
        audio_id=_read_id(data.get("audioId")) or _read_id(data.get("musicId")),
    )
    return Answer(Outcome.ANSWERED, message, code, notice)


def read_credits(kind: str, status: int, body: bytes) -> Answer | float:
    """Read the balance, which may be fractional at kie.ai; an `Answer` says why there is none.

    Sources: https://docs.sunoapi.org/suno-api/get-remaining-credits (`data` is a number),
    https://docs.kie.ai/common-api/get-account-credits; an old sample has `data.credits`.
    """
    envelope = open_envelope(kind, status, body)
    if isinstance(envelope, Answer):
        return envelope
    code, message, data = envelope
    amount = data.get("credits") if isinstance(data, dict) else data
    if isinstance(amount, bool) or not isinstance(amount, int | float):
        return _odd(message or "the answer holds no balance", code)
    if not abs(amount) < _BALANCE_LIMIT:
        return _odd("the answer holds an impossible balance", code)
    return float(amount)


def open_envelope(kind: str, status: int, body: bytes) -> Answer | tuple[int | None, str, object]:
    """Return (code, msg, data) of a successful call, else what went wrong with it.

    kie.ai sends errors as HTTP 200 with a code in the body, and a real HTTP 429 only from its rate
    limiter, so the body's code is asked first, and the HTTP status where there is none. A success
    needs both: a 404 is never one, whatever its body says.
    """
    try:
        document = decode(body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        return _judge_status(status)
    code = read_code(document.get("code"))
    message = _read_text(document.get("msg"))
    if code is None or _is_success(code):
        if not _is_success(status):
            # A `msg` beside a code of success says nothing about an HTTP error.
            return _judge_status(status, message if code is None else "")
        if "data" not in document:
            return _odd(message or "the answer holds no data", code)
        return code, message, document["data"]
    # A server error by code may be everybody's; any other code shows that the API lives.
    other = Outcome.TROUBLE if code >= _SERVER_ERROR or status != _CODE_OK else Outcome.ODD
    return Answer(DIALECTS[kind].codes.get(code, other), message or f"code {code}", code)


def _odd(message: str, code: int | None) -> Answer:
    """An envelope with a code shows that the API lives; other JSON may be anybody's."""
    return Answer(Outcome.TROUBLE if code is None else Outcome.ODD, message, code)


def _judge_status(status: int, message: str = "") -> Answer:
    text = message or f"HTTP {status} without a readable body"
    if status == _HTTP_TOO_MANY:
        return Answer(Outcome.RATE, text, status)
    if status == _HTTP_UNAUTHORIZED:
        return Answer(Outcome.KEY, text, status)
    return Answer(Outcome.TROUBLE, text, status)


def _judge_flag(flag: object, link: str | None) -> tuple[Evidence, Reason | None]:
    if link:
        return Evidence.SUCCESS, None
    if isinstance(flag, bool) or not isinstance(flag, str | int):
        return Evidence.PENDING, None
    # kie.ai's schema spells values as "PENDING-Waiting for execution".
    word = re.split(r"[\s-]", str(flag).strip().upper(), maxsplit=1)[0]
    if word in _FLAGS:
        return _FLAGS[word]
    if word.endswith("_FAILED"):
        return Evidence.FAILURE, Reason.PROVIDER_ERROR
    return Evidence.PENDING, None


_CODE_LIMIT = 1_000_000


def read_code(value: object) -> int | None:
    """Read a code: 200, "200" and 200.0; anything else is none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        text = value.strip()
        value = int(text) if re.fullmatch(r"[0-9]{1,6}", text) else None
    if isinstance(value, float):
        value = int(value) if value.is_integer() else None
    if isinstance(value, int) and 0 <= value < _CODE_LIMIT:
        return value
    return None


def _read_text(value: object) -> str:
    """Keep what SQLite and UTF-8 can hold.

    A lone surrogate would fail in both, later; SQLite's JSON cuts a text off at a NUL.
    """
    if not isinstance(value, str):
        return ""
    return value[:MESSAGE_LIMIT].replace("\x00", "?").encode("utf-8", "replace").decode("utf-8")


def _read_id(value: object) -> str | None:
    return value if isinstance(value, str) and TASK_ID.fullmatch(value) else None


_LINK = re.compile(r"https?://[^\x00-\x1f\x7f\ud800-\udfff]+", re.IGNORECASE)


def first_link(*values: object) -> str | None:
    """Return the first http(s) link, byte for byte but for raw spaces.

    File names with spaces come unescaped in real links; around a link they are no part of it.
    """
    for value in values:
        if isinstance(value, str):
            link = value.strip(" ").replace(" ", "%20")
            if len(link) <= LINK_LIMIT and _LINK.fullmatch(link):
                return link
    return None


def check_token(candidate: str, tokens: Iterable[str]) -> bool:
    """Compare with every token in constant time, without leaving early.

    Bytes, because `hmac.compare_digest` raises on text beyond ASCII.
    """
    given = candidate.encode("utf-8", "surrogatepass")
    found = False
    for token in tokens:
        found |= hmac.compare_digest(given, token.encode())
    return found


def sign(key: str, task_id: str, timestamp: int) -> str:
    """Return kie.ai's signature: base64 of HMAC-SHA256 over `<task id>.<Unix seconds>`.

    It does not cover the body, so it says nothing about the link.
    Source: https://docs.kie.ai/common-api/webhook-verification
    """
    return base64.b64encode(_digest(key, task_id, str(timestamp))).decode("ascii")


def check_signature(
    keys: Iterable[str], task_id: str, timestamp: str | None, signature: str | None, now: float
) -> bool:
    """Return whether one of `keys` signed `task_id` within 300 s of `now` (Unix seconds)."""
    if timestamp is None or signature is None or not re.fullmatch(r"[0-9]{1,12}", timestamp):
        return False
    try:
        given = base64.b64decode(signature, validate=True)
    except (binascii.Error, ValueError):
        return False
    found = False
    for key in keys:
        found |= hmac.compare_digest(given, _digest(key, task_id, timestamp))
    return found and abs(now - int(timestamp)) <= SIGNATURE_WINDOW_SECONDS


def _digest(key: str, task_id: str, timestamp: str) -> bytes:
    signed = f"{task_id}.{timestamp}".encode("utf-8", "surrogatepass")
    return hmac.new(key.encode(), signed, hashlib.sha256).digest()
