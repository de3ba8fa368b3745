"""What can go wrong at a provider, as data: the vocabulary of the simulator's faults.

Rule: a fault is a frozen value and holds no progress. What has happened so far is state of the
simulated task, so one value may serve many tasks.

A user picks faults the way payment providers let one pick test cards: an `audioId` that stands in
`SCENARIOS` asks for trouble, every other one works. Tests build `Faults` themselves.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal

import msgspec

Outcome = Literal["SUCCESS", "GENERATE_MP4_FAILED", "CREATE_TASK_FAILED", "CALLBACK_EXCEPTION"]
"""How a generation ends: a value of `successFlag`."""

FORGED_FILE = "/files/forged.mp4"
"""A whole, playable film that belongs to no task: who stores it has believed a forger."""


class Callback(msgspec.Struct, frozen=True, kw_only=True):
    """One callback about a finished task, with its own retries. Unset fields tell the truth.

    `after_seconds` counts from the end of the generation. A `video_url` without a host is one of
    the simulator's own. `signed` false is a forger: nobody else lacks the key.
    """

    after_seconds: float = 0.0
    code: int | None = None
    video_url: str | msgspec.UnsetType | None = msgspec.UNSET
    signed: bool = True


FORGED_FAILURE = Callback(code=500, video_url=None, signed=False)
FORGED_LINK = Callback(code=200, video_url=FORGED_FILE, signed=False)


class Reply(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One answer of the API in place of the true one.

    Without `flag` and `raw` it is an envelope with `code` and `data` null. `flag` is the task's
    record with that `successFlag`; `raw` is a body sent as it stands. `status` (HTTP) follows the
    provider's habit when it is not set, `retry_after` is sent as it stands, and `cut` closes the
    connection instead of answering.
    """

    code: int = 200
    flag: Literal[Outcome, "PENDING"] | None = None
    raw: str | None = None
    status: Annotated[int, msgspec.Meta(ge=200, le=599)] | None = None
    retry_after: str | None = None
    delay_seconds: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    cut: bool = False


class FileFault(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with the next downloads of a file.

    It lasts for a number of GET requests, `"always"`, or `"renewed"`: until record-info is asked
    once the fault has shown, and gives out a new link; the old link keeps the fault. A cut or a
    stall counts only for answers that are longer than it, so a probe for one byte uses none up.

    `reset` makes a cut a TCP reset instead of an orderly close. `truncate_to_bytes` serves a
    shorter file with honest headers (0: an empty 200), as does a host while the file is still
    being written. `other_film` serves another film of the same size with its own ETag. Framing
    `"chunked"` and `"close"` name no length; with `"close"` only the end of the connection ends
    the body. `etag` is sent as it stands, null sends none. `redirect_to` and `retry_after` are
    sent as they stand. A fresh link, which kie gives out for a known one, works at once, unless
    `also_fresh` says that it has the fault too.
    """

    lasts: int | Literal["renewed", "always"] = 1
    status: int | None = None
    retry_after: str | None = None
    redirect_to: str | None = None
    html: bool = False
    other_film: bool = False
    truncate_to_bytes: int | None = None
    flip_at_byte: int | None = None
    cut_after_bytes: int | None = None
    reset: bool = False
    stall_after_bytes: int | None = None
    bytes_per_second: int | None = None
    framing: Literal["length", "chunked", "close"] = "length"
    ignore_ranges: bool = False
    etag: str | msgspec.UnsetType | None = msgspec.UNSET
    also_fresh: bool = False


class Faults(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that goes wrong with one task; the default is a task without trouble.

    `error_code` is the code of a failure, in the callback and as `errorCode` of the record.
    `with_link` false withholds the link of a film that exists. `replies` answer the first
    record-info calls, `files` the first downloads, each in turn.

    The last three are about the answer of `generate`, once the task exists: it comes
    `answer_delay_seconds` later, then `answer_lost` cuts the connection before the id is told, and
    `answer` says something else in its place.
    """

    outcome: Outcome = "SUCCESS"
    error_code: int = 500
    with_link: bool = True
    callbacks: tuple[Callback, ...] = (Callback(),)
    replies: tuple[Reply, ...] = ()
    files: tuple[FileFault, ...] = ()
    answer_delay_seconds: float = 0.0
    answer_lost: bool = False
    answer: Reply | None = None


NO_FAULTS = Faults()


class ApiFaults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the API answers next to anything below `path`: the codes in turn, `repeat` times.

    A code is the number in the body, or a whole `Reply`. Such a call has no effect. No codes end
    the script.
    """

    codes: tuple[int | Reply, ...]
    repeat: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1
    path: str = "/api/v1/"


_MALFORMED = Reply(raw='{"code":200,"msg":"success","data":{"taskId":')

SCENARIOS: Mapping[str, tuple[Faults, str]] = MappingProxyType(
    {
        "sim-lost-callback": (
            Faults(callbacks=()),
            "the film is made and no callback is ever sent",
        ),
        "sim-late-callback": (
            Faults(callbacks=(Callback(after_seconds=60),)),
            "the callback is sent a minute after the film was made",
        ),
        "sim-duplicate-callback": (
            Faults(callbacks=(Callback(), Callback(), Callback(after_seconds=2))),
            "the callback is sent three times, twice at once",
        ),
        "sim-forged-failure": (
            Faults(callbacks=(FORGED_FAILURE, Callback(after_seconds=2))),
            "somebody else's callback says that it failed, then the true one comes",
        ),
        "sim-forged-link": (
            Faults(callbacks=(FORGED_LINK, Callback(after_seconds=2))),
            "somebody else's callback names another film, then the true one comes",
        ),
        "sim-callback-disorder": (
            Faults(callbacks=(Callback(), Callback(code=500, video_url=None, after_seconds=2))),
            "a stale callback that says failure comes after the one that says success",
        ),
        "sim-failure": (
            Faults(outcome="GENERATE_MP4_FAILED"),
            "the generation fails with code 500",
        ),
        "sim-create-failure": (
            Faults(outcome="CREATE_TASK_FAILED", error_code=400),
            "the task cannot be created, code 400",
        ),
        "sim-audio-failure": (
            Faults(outcome="GENERATE_MP4_FAILED", error_code=451),
            "the source audio cannot be fetched, code 451",
        ),
        "sim-callback-exception": (
            Faults(outcome="CALLBACK_EXCEPTION", callbacks=()),
            "the record says CALLBACK_EXCEPTION and has the link; no callback is sent",
        ),
        "sim-callback-exception-bare": (
            Faults(
                callbacks=(),
                replies=(Reply(flag="PENDING"), *(Reply(flag="CALLBACK_EXCEPTION"),) * 3),
            ),
            "the record says CALLBACK_EXCEPTION without a link three times, then SUCCESS",
        ),
        "sim-lost-answer": (
            Faults(answer_lost=True),
            "generate creates the task, and the connection breaks before the answer",
        ),
        "sim-key-rejected": (
            Faults(replies=(Reply(code=401),) * 2),
            "record-info answers 401 twice",
        ),
        "sim-busy-api": (
            Faults(replies=(Reply(code=430), Reply(status=429, code=430, retry_after="2"))),
            "record-info answers 430, then HTTP 429 with Retry-After",
        ),
        "sim-maintenance": (
            Faults(replies=(Reply(code=455),) * 2),
            "record-info answers 455 twice",
        ),
        "sim-broken-answer": (
            Faults(replies=(Reply(code=500), _MALFORMED, Reply(), Reply(cut=True))),
            "record-info answers 500, half a JSON body, data null and nothing at all, in turn",
        ),
        "sim-broken-download": (
            Faults(files=(FileFault(cut_after_bytes=1_000_000),)),
            "the first download is cut after 1,000,000 bytes; the next can resume",
        ),
        "sim-stalled-download": (
            Faults(files=(FileFault(stall_after_bytes=1_000_000),)),
            "the first download falls silent after 1,000,000 bytes",
        ),
        "sim-slow-download": (
            Faults(files=(FileFault(bytes_per_second=250_000, lasts="always"),)),
            "every connection gets 250,000 bytes a second",
        ),
        "sim-short-download": (
            Faults(files=(FileFault(truncate_to_bytes=1_000_000),)),
            "the first download is a file that is not written to its end yet",
        ),
        "sim-corrupt-download": (
            Faults(files=(FileFault(flip_at_byte=4),)),
            "the first download has a damaged byte in its first box",
        ),
        "sim-html-download": (
            Faults(files=(FileFault(html=True),)),
            "the first download is an HTML page with status 200",
        ),
        "sim-empty-download": (
            Faults(files=(FileFault(truncate_to_bytes=0),)),
            "the first download is empty, with status 200",
        ),
        "sim-redirected-download": (
            Faults(files=(FileFault(redirect_to="?redirected=1"),)),
            "the first download is redirected",
        ),
        "sim-expired-link": (
            Faults(files=(FileFault(status=403, lasts="renewed"),)),
            "the link answers 403 until record-info is asked again and gives a new one",
        ),
        "sim-refused-link": (
            Faults(files=(FileFault(status=403, lasts="always"),)),
            "the link answers 403 always; on kie, common/download-url gives one that works",
        ),
        "sim-busy-host": (
            Faults(files=(FileFault(status=503, retry_after="2", lasts=2),)),
            "the first two downloads answer 503 with Retry-After",
        ),
    }
)
"""`audioId` -> what goes wrong, and that in words for a list."""
