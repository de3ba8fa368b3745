"""What does a file host's answer offer, and does it continue the bytes that we have?

Rule: bytes of two versions never meet in one file. A part is taken only when the host proves, with
a strong validator and an exact Content-Range, that it belongs to the same version.

Source: RFC 9110 sections 8.8 (validators), 13.1.5 (If-Range), 14.4 (Content-Range), 15.3.7 (206)
and 15.5.17 (416); RFC 9112 section 8 (incomplete messages).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

from daemon.rules.failure import Reason, Refused, Trouble

OVERLAP_BYTES: Final = 64 << 10
"""How many bytes before a gap are fetched again and compared with the disk: the same ETag over
other bytes is caught by it."""
LAST_MODIFIED_AGE_SECONDS: Final = 60
"""A modification date is strong only when a second change in the same second is excluded; RFC 7232
asked for 60 seconds, and clocks have not improved since."""
TOO_LARGE_PAUSE_SECONDS: Final = 3600
"""Only the operator's `download.max_size` or another file mends it."""

_PASSING_4XX = frozenset({408, 416, 425, 429})
_OK = 200
_PARTIAL = 206
_UNSATISFIABLE = 416


class Changed(Exception):
    """Another version is served, or the ranges cannot be trusted: start from the first byte."""


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked: bytes from `start` on, of the version that `validator` names.

    `validator` is None when the whole file was asked for, without Range. `end` is the first byte
    that was not asked for any more; None: everything to the end.
    """

    start: int
    validator: str | None
    total_bytes: int | None
    end: int | None = None

    def headers(self) -> dict[str, str]:
        """Return the request headers that say this."""
        if self.validator is None:
            return {}
        last = "" if self.end is None else self.end - 1
        return {"Range": f"bytes={self.start}-{last}", "If-Range": self.validator}


@dataclass(frozen=True, slots=True)
class Offer:
    """What the body of the answer holds.

    `total_bytes` is None when the host names no length. `framed` says whether the end of the
    stream proves that it is whole (chunked framing does, a closed connection does not).
    """

    start: int
    total_bytes: int | None
    validator: str | None
    framed: bool


def read_head(
    status: int, headers: Mapping[str, str], request: Request, *, now: float, max_bytes: int
) -> Offer:
    """Judge the status line and the headers of a final answer.

    `headers` has lower-case names; `now` is Unix seconds.

    Raises:
        Changed: a part that does not continue what we have.
        Refused: the link is dead.
        Trouble: again later, after the host's own wish if it has one.
    """
    if status == _PARTIAL and request.validator is not None:
        offer = _read_part(headers, request)
    elif status == _OK:
        offer = _read_whole(headers)
    else:
        raise _judge_status(status, headers, request, now)
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise Trouble(Reason.NETWORK, f"the host compressed the video ({encoding[:20]})")
    if offer.total_bytes is not None and offer.total_bytes > max_bytes:
        raise Trouble(
            Reason.TOO_LARGE,
            f"the file has {offer.total_bytes} bytes, download.max_size allows {max_bytes}",
            TOO_LARGE_PAUSE_SECONDS,
        )
    return offer


def _read_whole(headers: Mapping[str, str]) -> Offer:
    return Offer(
        start=0,
        total_bytes=_read_length(headers),
        validator=read_validator(headers),
        framed="chunked" in headers.get("transfer-encoding", "").lower(),
    )


def _read_part(headers: Mapping[str, str], request: Request) -> Offer:
    found = read_content_range(headers)
    if found is None:
        raise Changed("206 without a usable Content-Range")
    first, last, total = found
    end = total if request.end is None else request.end
    if (first, last) != (request.start, end - 1):
        raise Changed(f"asked for bytes {request.start}-{end - 1}, got {first}-{last} of {total}")
    if request.total_bytes is not None and total != request.total_bytes:
        raise Changed(f"the file had {request.total_bytes} bytes and now has {total}")
    length = _read_length(headers)
    if length is not None and length != last - first + 1:
        raise Changed("Content-Length and Content-Range contradict each other")
    # Also a weak ETag where a strong one was asked for: it allows other bytes (RFC 9110, 8.8.1).
    validator = headers.get("etag", "").strip() or read_validator(headers)
    if validator is not None and validator != request.validator:
        raise Changed("the part belongs to another version")
    framed = "chunked" in headers.get("transfer-encoding", "").lower()
    return Offer(first, total, request.validator, framed)


def _read_length(headers: Mapping[str, str]) -> int | None:
    length = headers.get("content-length")
    if length is None:
        return None
    if not re.fullmatch(r"[0-9]{1,18}", length):
        raise Trouble(Reason.NETWORK, f"the host sent the Content-Length {length[:20]!r}")
    return int(length)


_CONTENT_RANGE = re.compile(
    r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})", re.ASCII | re.IGNORECASE
)


def read_content_range(headers: Mapping[str, str]) -> tuple[int, int, int] | None:
    """Return (first, last, total) of a single part; None for multipart, no total, nonsense."""
    if headers.get("content-type", "").lower().startswith("multipart/"):
        return None
    match = _CONTENT_RANGE.fullmatch(headers.get("content-range", "").strip())
    if match is None:
        return None
    first, last, total = (int(group) for group in match.groups())
    return (first, last, total) if first <= last < total else None


def _judge_status(
    status: int, headers: Mapping[str, str], request: Request, now: float
) -> Exception:
    if status == _UNSATISFIABLE and request.validator is not None:
        return Changed("the host has no bytes where we left off")
    if is_dead(status):
        return Refused(Reason.LINK_REFUSED, f"the host refuses the link: HTTP {status}")
    wish = read_retry_after(headers.get("retry-after"), now)
    return Trouble(Reason.NETWORK, f"the host answered HTTP {status}", wish)


def is_dead(status: int) -> bool:
    """Tell whether an HTTP status says that a link is not served any more."""
    return 400 <= status < 500 and status not in _PASSING_4XX  # noqa: PLR2004 - the 4xx class


def read_validator(headers: Mapping[str, str]) -> str | None:
    """Return a strong validator: a strong ETag, or without any ETag an old enough Last-Modified."""
    etag = headers.get("etag")
    if etag is not None:
        etag = etag.strip()
        return etag if re.fullmatch(r'"[\x21\x23-\x7e]{0,200}"', etag) else None
    modified, sent = _read_date(headers.get("last-modified")), _read_date(headers.get("date"))
    if modified is None or sent is None or sent - modified < LAST_MODIFIED_AGE_SECONDS:
        return None
    return headers["last-modified"].strip()


def read_retry_after(value: str | None, now: float) -> float | None:
    """Return seconds to wait: from a number, or from a date (RFC 9110 section 10.2.3)."""
    if value is None:
        return None
    if re.fullmatch(r"\s*[0-9]{1,12}\s*", value):
        return float(value)
    date = _read_date(value)
    return None if date is None else max(0.0, date - now)


def _read_date(value: str | None) -> float | None:
    if value is None:
        return None
    try:
        date = parsedate_to_datetime(value)
        # The asctime form names no zone; every date of HTTP is UTC (RFC 9110 section 5.6.7).
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
