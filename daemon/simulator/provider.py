"""What is true at the simulated provider, and how each kind of provider says it.

Rule: nothing here waits, listens or reads a clock. Codes, field names and shapes of answers and
callbacks of the three kinds stand here and nowhere else.

Sources: https://docs.sunoapi.org/suno-api/create-music-video and get-music-video-details,
https://docs.api.box/suno-api/create-music-video, https://docs.kie.ai/suno-api/create-music-video,
create-music-video-callbacks and get-music-video-details,
https://docs.kie.ai/common-api/download-url.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Annotated, Final, Literal
from urllib.parse import urljoin, urlsplit

import msgspec

from daemon.simulator.faults import Callback, Faults, FileFault
from daemon.simulator.films import Clip, Film

Kind = Literal["sunoapi", "apibox", "kie"]

CODE_OK = 200
CODE_BAD_JSON = 400
CODE_UNAUTHORIZED = 401

PASS_SECONDS: Final = 20 * 60.0
"""How long a fresh link works."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """Where one provider differs from the others. `price_credits` is what one video costs."""

    credit_path: str
    price_credits: float
    bad_field_code: int
    duplicate_code: int
    duplicate_names_task: bool
    no_credits_code: int
    rate_code: int
    limits_by_status: bool
    gives_fresh_links: bool
    callback_message: str


_SUNOAPI = Dialect(
    credit_path="/api/v1/generate/credit",
    price_credits=4,
    bad_field_code=400,
    duplicate_code=409,
    duplicate_names_task=True,
    no_credits_code=429,
    rate_code=430,
    limits_by_status=False,
    gives_fresh_links=False,
    callback_message="MP4 generated successfully.",
)

DIALECTS: Mapping[Kind, Dialect] = MappingProxyType(
    {
        "sunoapi": _SUNOAPI,
        "apibox": _SUNOAPI,
        "kie": Dialect(
            credit_path="/api/v1/chat/credit",
            # The price is made up; balances with quarters have been recorded.
            price_credits=3.75,
            bad_field_code=422,
            duplicate_code=422,
            duplicate_names_task=False,
            no_credits_code=402,
            rate_code=429,
            # Only the rate limiter is documented as a real HTTP status: https://docs.kie.ai
            limits_by_status=True,
            gives_fresh_links=True,
            callback_message="success",
        ),
    }
)


class GenerateRequest(msgspec.Struct, frozen=True, rename="camel"):
    """The body of `POST /api/v1/mp4/generate`."""

    task_id: Annotated[str, msgspec.Meta(min_length=1)]
    audio_id: Annotated[str, msgspec.Meta(min_length=1)]
    call_back_url: Annotated[str, msgspec.Meta(pattern="^https?://")]
    author: Annotated[str, msgspec.Meta(max_length=50)] | None = None
    domain_name: Annotated[str, msgspec.Meta(max_length=50)] | None = None

    def __post_init__(self) -> None:
        if not urlsplit(self.call_back_url).hostname:
            raise ValueError("callBackUrl names no host")


class FreshLinkRequest(msgspec.Struct, frozen=True):
    """The body of `POST /api/v1/common/download-url`."""

    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorOptions:
    """How the simulated provider behaves while nothing goes wrong.

    Without `api_key` any key is accepted, but there has to be one. A callback that is not answered
    with 200 in `callback_timeout_seconds` is sent again after each of `callback_retry_delays`
    (seconds), then never. The retry times are kie.ai's, the only ones that were ever published.
    `bytes_per_second` is the pace of each download, None as fast as it goes.

    Raises:
        ValueError: `hmac_key` with a provider that does not sign, an impossible file size, a
            time or balance that is negative or endless, or a pace at which nothing moves.
    """

    kind: Kind = "sunoapi"
    api_key: str | None = field(default=None, repr=False)
    hmac_key: str | None = field(default=None, repr=False)
    credits: float = 1000
    render_seconds: float = 2.0
    callback_timeout_seconds: float = 15.0
    callback_retry_delays: tuple[float, ...] = (60.0, 300.0, 900.0)
    file_size_bytes: int = 5 << 20
    bytes_per_second: int | None = None
    clip: Clip = "faststart"
    retention_seconds: float = 14 * 86_400.0

    def __post_init__(self) -> None:
        if self.hmac_key is not None and self.kind != "kie":
            raise ValueError(f"{self.kind} does not sign callbacks, only kie does")
        for name in ("render_seconds", "credits"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"{name} has to be 0 or more, not {value}")
        if self.bytes_per_second is not None and self.bytes_per_second < 1:
            raise ValueError(f"bytes_per_second has to be 1 or more, not {self.bytes_per_second}")
        Film("", self.file_size_bytes, self.clip)


@dataclass(slots=True)
class SimulatedTask:
    """A video task at the provider. A test may change anything about it, at any time.

    `track` is the music task's id and the audio id. `completes_at` is in the future while the film
    is being made. `base_url` is how the simulator was reached when the task was created, so that
    its links work from there. The four fields from `replies_given` on are how far its faults have
    got. `passes` has the secret of each fresh link and the Unix time at which it was given out.
    """

    task_id: str
    track: tuple[str, str]
    callback_url: str
    base_url: str
    created_at: float
    completes_at: float
    film: Film
    faults: Faults
    replies_given: int = 0
    link_number: int = 1
    file_faults_ended: int = 0
    file_fault_shown: int = 0
    passes: dict[str, float] = field(default_factory=dict)

    @property
    def video_urls(self) -> list[str]:
        """All links so far, the newest last; a renewed link has another path."""
        suffixes = ["", *(f"-{number}" for number in range(2, self.link_number + 1))]
        return [f"{self.base_url}/files/{self.task_id}{suffix}.mp4" for suffix in suffixes]

    @property
    def video_url(self) -> str:
        """The newest link."""
        return self.video_urls[-1]

    @property
    def file_fault(self) -> FileFault:
        """What is wrong with the newest link now."""
        return next(iter(self.faults.files[self.file_faults_ended :]), FileFault())

    def find_file_fault(self, link_number: int) -> FileFault | None:
        """Return what is wrong with a link now, or None when there is no such link."""
        if link_number == self.link_number:
            return self.file_fault
        if not 1 <= link_number < self.link_number:
            return None
        return [fault for fault in self.faults.files if fault.lasts == "renewed"][link_number - 1]

    def admits(self, secret: str, now: float) -> bool:
        """Return whether a fresh link with this secret still works at `now`."""
        given_at = self.passes.get(secret)
        return given_at is not None and now - given_at <= PASS_SECONDS

    def show_file_fault(self) -> None:
        """Count one download that met the present fault, which may end it."""
        self.file_fault_shown += 1
        if self.file_fault.lasts == self.file_fault_shown:
            self._end_file_fault()

    def renew_link(self) -> None:
        """Give out a new link when the present one has shown a fault that lasts until then."""
        if self.file_fault.lasts == "renewed" and self.file_fault_shown:
            self.link_number += 1
            self._end_file_fault()

    def _end_file_fault(self) -> None:
        self.file_faults_ended += 1
        self.file_fault_shown = 0


_MESSAGES: Mapping[int, str] = {
    200: "success",
    400: "Invalid request",
    401: "You do not have access permissions",
    404: "Not found",
    405: "Call limit exceeded",
    451: "The source audio could not be downloaded",
    455: "Service under maintenance",
    500: "Internal error, try again later",
}


def envelope(kind: Kind, code: int, data: object = None, message: str | None = None) -> bytes:
    """Return `{code, msg, data}`. A 401 has no `data`: https://docs.kie.ai shows it without."""
    dialect = DIALECTS[kind]
    if code == dialect.no_credits_code:
        message = "Insufficient credits"
    elif code == dialect.rate_code:
        message = "Call frequency too high"
    answer: dict[str, object] = {"code": code, "msg": message or explain(code)}
    if code != CODE_UNAUTHORIZED:
        answer["data"] = data
    return msgspec.json.encode(answer)


def record(
    kind: Kind, task: SimulatedTask, now: float, flag: str | None = None
) -> dict[str, object]:
    """Return the `data` of record-info at `now`; `flag` in place of the true `successFlag`.

    sunoapi has `audioId` and times in epoch milliseconds. The older shape, here api.box's, and
    kie.ai's have `musicIndex` and times as text without a zone. kie.ai's `errorCode` may be 200.
    """
    done = now >= task.completes_at
    link = _true_link(task) if done and flag in (None, "SUCCESS") else None
    flag = flag or (task.faults.outcome if done else "PENDING")
    error_code = task.faults.error_code if flag.endswith("_FAILED") else None
    return {
        "taskId": task.task_id,
        "musicId": task.track[1],
        "callbackUrl": task.callback_url,
        **({"audioId": task.track[1]} if kind == "sunoapi" else {"musicIndex": 0}),
        "completeTime": (
            None if flag == "PENDING" else tell_time(kind, min(now, task.completes_at))
        ),
        "response": {"videoUrl": link} if link else None,
        "successFlag": flag,
        "createTime": tell_time(kind, task.created_at),
        "errorCode": CODE_OK if kind == "kie" and flag == "SUCCESS" else error_code,
        "errorMessage": None if error_code is None else explain(error_code),
    }


def callback_body(kind: Kind, task: SimulatedTask, callback: Callback) -> bytes:
    """Return the body of a callback: the truth, but for what `callback` says instead."""
    code = callback.code
    if code is None:
        code = task.faults.error_code if task.faults.outcome.endswith("_FAILED") else CODE_OK
    link = callback.video_url
    if link is msgspec.UNSET:
        link = _true_link(task)
    elif link is not None:
        link = urljoin(task.base_url, link)
    message = DIALECTS[kind].callback_message if code in (0, CODE_OK) else explain(code)
    data = {"task_id": task.task_id, "video_url": link}
    return msgspec.json.encode({"code": code, "msg": message, "data": data})


def _true_link(task: SimulatedTask) -> str | None:
    has_film = not task.faults.outcome.endswith("_FAILED") and task.faults.with_link
    return task.video_url if has_film else None


def explain(code: int) -> str:
    """Return what a code means, in words."""
    return _MESSAGES.get(code, "Music video generation failed")


def tell_time(kind: Kind, at: float) -> int | str:
    """Return a Unix time as the provider writes it: milliseconds, or UTC text without a zone."""
    if kind == "sunoapi":
        return math.floor(at * 1000)
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")
