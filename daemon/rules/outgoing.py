"""What the application behind the gateway may ask for, and what it is answered and told.

Rule: it hears the provider's shapes and codes and no others, so that it need not know that we are
in between. What it wants of us is read completely or refused here, before anything is sent.

Sources: https://docs.sunoapi.org/suno-api/create-music-video and create-music-video-callbacks,
https://docs.kie.ai/suno-api/create-music-video (422 for a field, 400 for what is no JSON).
"""

import json
import re
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network
from typing import Final
from urllib.parse import unquote

from daemon.rules.address import AddressPolicy, AddressRefused, check_link, escape_spaces
from daemon.rules.lifecycle import State
from daemon.rules.schedule import HOUR, SECOND, backoff
from daemon.rules.submission import TEXT_LIMIT, Wish

CODE_OK: Final = 200
CODE_BAD_REQUEST: Final = 400
CODE_UNPROCESSABLE: Final = 422
CODE_FAILED: Final = 500
RESEND_FIRST_MS: Final = 5 * SECOND
RESEND_LIMIT_MS: Final = HOUR
GIVE_UP_MS: Final = 72 * HOUR

_ID = re.compile(r"[ -~]{1,128}")
_HTTP = re.compile(r"https?://", re.IGNORECASE)
_HOST = re.compile(r"[^/]*//[^/]*/?")
_FIELDS: Final = frozenset({"taskId", "audioId", "callBackUrl", "author", "domainName"})
_LOOPBACK: Final = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))


def application_policy(allow_private: Iterable[IPv4Network | IPv6Network]) -> AddressPolicy:
    """Return what the owner's own application may be reached under: this machine counts too."""
    return AddressPolicy(allow_http=True, allow_private=(*allow_private, *_LOOPBACK))


class Unfit(Exception):
    """A request that is answered without asking the provider; `code` stands in the body."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def read_wish(kind: str, body: bytes, policy: AddressPolicy) -> tuple[Wish, frozenset[str]]:
    """Read the body of `mp4/generate`; return the wish, and the fields that nobody documented.

    `callBackUrl` may be missing: then the application is not called. `kind` is `provider.kind`.

    Raises:
        Unfit: no JSON object, a field that cannot be used, or a `callBackUrl` that `policy`
            forbids, for nobody could be told that later.
    """
    wrong_field = CODE_UNPROCESSABLE if kind == "kie" else CODE_BAD_REQUEST
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise Unfit(CODE_BAD_REQUEST, "The body is not valid JSON.") from None
    if not isinstance(document, dict):
        raise Unfit(wrong_field, "The body has to be a JSON object.")
    try:
        wish = Wish(
            music_task_id=_read_id(document, "taskId"),
            audio_id=_read_id(document, "audioId"),
            author=_read_text(document, "author"),
            domain_name=_read_text(document, "domainName"),
            application_url=_read_url(document, policy),
        )
    except ValueError as error:
        raise Unfit(wrong_field, str(error)) from None
    return wish, frozenset(document.keys() - _FIELDS)


def _read_id(document: Mapping[str, object], name: str) -> str:
    value = document.get(name)
    if not isinstance(value, str) or not _ID.fullmatch(value) or value.isspace():
        raise ValueError(f"{name} has to be a text of 1 to 128 printable ASCII characters.")
    return value


def _read_text(document: Mapping[str, object], name: str) -> str | None:
    value = document.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > TEXT_LIMIT:
        raise ValueError(f"{name} has to be a text of at most {TEXT_LIMIT} characters.")
    if re.search("[\x00\ud800-\udfff]", value):
        raise ValueError(f"{name} holds characters that no text has.")
    return value


def _read_url(document: Mapping[str, object], policy: AddressPolicy) -> str | None:
    value = document.get("callBackUrl")
    if value is None:
        return None
    if not isinstance(value, str) or not _HTTP.match(value):
        raise ValueError("callBackUrl has to be an http or https URL.")
    try:
        return check_link(escape_spaces(value), policy).text
    except AddressRefused as refusal:
        raise ValueError(f"callBackUrl cannot be called: {refusal.message}.") from None


def read_path(path: str) -> tuple[str, ...] | None:
    """Return the segments of a raw path as a server may read them; None where that is unsafe.

    A segment `.` or `..` would leave `/api/v1/` at the provider, in whatever spelling: percent
    signs are decoded twice, a backslash counts as a slash, and what follows a `;` is left out, as
    servlet containers do before they look.
    """
    text = unquote(unquote(path, errors="surrogateescape"), errors="surrogateescape")
    segments = tuple(part.partition(";")[0] for part in re.split(r"[/\\]", text))
    if any(segment in {".", ".."} for segment in segments):
        return None
    return tuple(filter(None, segments))


def envelope(code: int, message: str, data: object = None) -> bytes:
    """Return the one shape that all answers and callbacks of the provider have."""
    return json.dumps({"code": code, "msg": message, "data": data}).encode()


def write_news(
    type_: str,
    task_id: str,
    *,
    reason: str | None,
    link: str | None,
    path: str | None,
    sha256: str | None,
) -> bytes:
    """Return the body of a callback to the application; `type_` is such as `task.stored`."""
    state = type_.removeprefix("task.")
    if state in {State.STORED, State.DONE}:
        data = {"task_id": task_id, "video_url": link, "path": path, "sha256": sha256}
        return envelope(CODE_OK, "success", data)
    return envelope(CODE_FAILED, reason or state, {"task_id": task_id, "video_url": None})


def plan_resend(created_at: int, tries: int, now: int, luck: float) -> int | None:
    """Return when a message is sent again after `tries` failures (1: the first); None: never.

    Backoff with full jitter; the last try is three days after the message was made.
    """
    end = created_at + GIVE_UP_MS
    if now >= end:
        return None
    return min(end, now + backoff(tries, RESEND_FIRST_MS, RESEND_LIMIT_MS, luck))


def find_host(target: str) -> str:
    """Return the start of a URL that names the receiver, whatever it is called about there."""
    found = _HOST.match(target)
    return found[0] if found else target
