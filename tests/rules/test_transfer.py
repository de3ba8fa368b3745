"""Bytes of two versions never meet in one file (RFC 9110)."""

import time
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from daemon.rules.failure import Reason, Refused, Trouble
from daemon.rules.transfer import (
    Changed,
    Offer,
    Request,
    read_content_range,
    read_head,
    read_retry_after,
    read_validator,
)

NOW = datetime(2026, 11, 22, 8, 0, 0, tzinfo=UTC).timestamp()
MAX = 1000
WHOLE = Request(0, None, None)
PART = Request(40, '"v1"', 100)
PARTIAL = {"content-range": "bytes 40-99/100", "content-length": "60", "etag": '"v1"'}


def read(status: int, headers: dict[str, str], request: Request = WHOLE) -> Offer:
    """Judge the head of an answer."""
    return read_head(status, headers, request, now=NOW, max_bytes=MAX)


# The request


def test_a_first_request_asks_for_everything() -> None:
    """Without a validator there is no Range: the bytes could not be joined."""
    assert WHOLE.headers() == {}
    assert Request(40, None, 100).headers() == {}


def test_a_later_request_asks_for_the_same_version() -> None:
    """Range goes with If-Range, so a new version comes whole."""
    assert PART.headers() == {"Range": "bytes=40-", "If-Range": '"v1"'}


# 200


@pytest.mark.parametrize("request_", [WHOLE, PART])
def test_200_is_the_whole_file(request_: Request) -> None:
    """A 200 starts at the first byte, also where a part was asked for."""
    offer = read(200, {"content-length": "100", "etag": '"v2"'}, request_)
    assert offer == Offer(start=0, total_bytes=100, validator='"v2"', framed=False)


@pytest.mark.parametrize(
    ("coding", "framed"), [({}, False), ({"transfer-encoding": "Chunked"}, True)]
)
def test_without_a_length(coding: dict[str, str], *, framed: bool) -> None:
    """Without a length only chunked framing proves that the end is the end."""
    assert read(200, coding) == Offer(start=0, total_bytes=None, validator=None, framed=framed)


@pytest.mark.parametrize(
    "length", ["", "-1", "+5", "1_0", " 5", "0x10", "5, 5", "\u0665", "9" * 19]
)
@pytest.mark.parametrize("status", [200, 206])
def test_a_length_that_is_none(status: int, length: str) -> None:
    """Nonsense for a length is a bad moment of the host, not a bug of ours."""
    with pytest.raises(Trouble, match="Content-Length"):
        read(status, {**PARTIAL, "content-length": length}, PART)


@pytest.mark.parametrize(("status", "request_"), [(200, WHOLE), (206, PART)])
def test_compressed_bodies(status: int, request_: Request) -> None:
    """We asked for plain bytes: anything else would be counted and resumed wrongly."""
    for encoding in ("gzip", "br", "identity, gzip"):
        with pytest.raises(Trouble, match="compressed"):
            read(status, {**PARTIAL, "content-encoding": encoding}, request_)
    read(status, {**PARTIAL, "content-encoding": " Identity "}, request_)


def test_too_large() -> None:
    """Not a byte over the limit is begun, and the next look comes an hour later."""
    assert read(200, {"content-length": str(MAX)}).total_bytes == MAX
    with pytest.raises(Trouble, match=r"1001 bytes.*max_size allows 1000") as failed:
        read(200, {"content-length": str(MAX + 1)})
    assert (failed.value.reason, failed.value.retry_after) == (Reason.TOO_LARGE, 3600)
    grown = {"content-range": "bytes 40-1000/1001"}
    with pytest.raises(Trouble):
        read(206, grown, Request(40, '"v1"', None))


# 206


def test_206_continues() -> None:
    """A part that begins where it was asked for and reaches the end is taken."""
    assert read(206, PARTIAL, PART) == Offer(40, 100, '"v1"', framed=False)
    chunked = {"content-range": "bytes 40-99/100", "transfer-encoding": "chunked"}
    assert read(206, chunked, PART) == Offer(40, 100, '"v1"', framed=True)
    assert read(206, PARTIAL, Request(40, '"v1"', None)).total_bytes == 100


@pytest.mark.parametrize(
    "wrong",
    [
        {"content-range": "bytes 41-99/100"},
        {"content-range": "bytes 0-99/100"},
        {"content-range": "bytes 40-98/100"},
        {"content-range": "bytes 40-99/101"},
        {"content-range": "bytes 40-100/101", "content-length": "61"},
        {"content-range": "bytes 40-99/*"},
        {"content-range": "bytes */100"},
        {"content-range": ""},
        {"content-type": "multipart/byteranges; boundary=x"},
        {"content-length": "59"},
        {"content-length": "100"},
        {"etag": '"v2"'},
    ],
)
def test_206_that_does_not_continue(wrong: dict[str, str]) -> None:
    """Another start, end, total, length or version: begin anew."""
    with pytest.raises(Changed):
        read(206, {**PARTIAL, **wrong}, PART)


@pytest.mark.parametrize(
    "content_range", ["bytes 41-99/100", "bytes 39-99/100", "bytes 40-98/100", "bytes 40-40/100"]
)
def test_206_with_nothing_but_a_wrong_range(content_range: str) -> None:
    """The range itself is compared, also where no length or version beside it gives it away."""
    with pytest.raises(Changed, match="asked for bytes 40-"):
        read(206, {"content-range": content_range}, Request(40, '"v1"', None))


def test_206_without_a_range() -> None:
    """A part without Content-Range could be any part."""
    with pytest.raises(Changed, match="Content-Range"):
        read(206, {}, PART)


def test_206_with_a_weak_validator_beside_it() -> None:
    """It allows other bytes behind the compared ones, whatever If-Range was taken for."""
    with pytest.raises(Changed):
        read(206, {**PARTIAL, "etag": 'W/"v1"'}, PART)


def test_206_that_nobody_asked_for() -> None:
    """A part in answer to a whole request is nonsense, and no reason to give up the link."""
    with pytest.raises(Trouble, match="206"):
        read(206, PARTIAL)


# Content-Range (RFC 9110 section 14.4)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("bytes 0-0/1", (0, 0, 1)),
        ("bytes 42-1233/1234", (42, 1233, 1234)),
        (" Bytes 0-499/1234 ", (0, 499, 1234)),
        ("bytes 0-999999999999999998/999999999999999999", (0, 10**18 - 2, 10**18 - 1)),
        ("bytes 42-1233/*", None),
        ("bytes */1234", None),
        ("bytes 5-4/10", None),
        ("bytes 0-10/10", None),
        ("bytes=0-9/10", None),
        ("bytes 0-9/10, bytes 20-29/40", None),
        ("bytes -9/10", None),
        ("bytes 0 - 9/10", None),
        ("items 0-9/10", None),
        ("bytes \u0660-\u0669/\u0661\u0660", None),
        ("bytes 0-9/10000000000000000000", None),
        ("0-9/10", None),
        ("", None),
    ],
)
def test_content_range(value: str, found: tuple[int, int, int] | None) -> None:
    """One satisfied range with a known total is read, everything else is none."""
    assert read_content_range({"content-range": value}) == found


def test_content_range_of_several_parts() -> None:
    """In a multipart body the header says nothing about the whole."""
    several = {"content-range": "bytes 0-9/10", "content-type": "Multipart/byteranges"}
    assert read_content_range(several) is None
    assert read_content_range({}) is None


# Other statuses


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 405, 409, 410, 441, 451, 499])
@pytest.mark.parametrize("request_", [WHOLE, PART])
def test_refusals(status: int, request_: Request) -> None:
    """A 4xx refuses the link, at the first byte as in the middle."""
    with pytest.raises(Refused, match=f"HTTP {status}") as refused:
        read(status, {}, request_)
    assert refused.value.reason is Reason.LINK_REFUSED


@pytest.mark.parametrize("status", [408, 416, 425, 429])
def test_4xx_that_pass(status: int) -> None:
    """Four of them are no verdict on the link."""
    with pytest.raises(Trouble) as trouble:
        read(status, {"retry-after": "7"})
    assert (trouble.value.reason, trouble.value.retry_after) == (Reason.NETWORK, 7)


@pytest.mark.parametrize(
    "status", [100, 202, 203, 204, 205, 300, 301, 304, 307, 500, 501, 502, 503, 504, 520, 522, 599]
)
@pytest.mark.parametrize("request_", [WHOLE, PART])
def test_trouble(status: int, request_: Request) -> None:
    """Any other status is a bad moment of the host: the bytes stay, and we come again."""
    with pytest.raises(Trouble, match=f"HTTP {status}") as trouble:
        read(status, {}, request_)
    assert trouble.value.retry_after is None


def test_416_in_the_middle() -> None:
    """There is nothing where we left off: another version, begin anew (15.5.17)."""
    with pytest.raises(Changed):
        read(416, {"content-range": "bytes */30"}, PART)


# Validators (RFC 9110 sections 8.8.2.2, 8.8.3 and 13.1.5)

SENT = "Sun, 22 Nov 2026 08:00:00 GMT"


@pytest.mark.parametrize(
    ("etag", "strong"),
    [
        ('"xyzzy"', True),
        ('""', True),
        (' "a-1:2!#" ', True),
        ('W/"xyzzy"', False),
        ('w/"xyzzy"', False),
        ("xyzzy", False),
        ('"a"b"', False),
        ('"a b"', False),
        ('"a\x00"', False),
        ('"ä"', False),
        ('"a", "b"', False),
        (f'"{"x" * 201}"', False),
        ("", False),
    ],
)
def test_etags(etag: str, *, strong: bool) -> None:
    """Only a strong ETag, sent back as it came, names a version; a weak one hides the date."""
    headers = {"etag": etag, "last-modified": "Sat, 21 Nov 2026 08:00:00 GMT", "date": SENT}
    assert read_validator(headers) == (etag.strip() if strong else None)


@pytest.mark.parametrize(
    ("modified", "strong"),
    [
        ("Sun, 22 Nov 2026 07:59:00 GMT", True),
        ("Sun, 22 Nov 2026 07:59:01 GMT", False),
        ("Sun, 22 Nov 2026 09:00:00 GMT", False),
        ("Sunday, 22-Nov-26 07:00:00 GMT", True),
        ("Sun Nov 22 07:59:00 2026", True),
        ("Sun Nov 22 07:59:01 2026", False),
        ("yesterday", False),
        ("", False),
        ("0", False),
    ],
)
def test_dates(modified: str, *, strong: bool) -> None:
    """Without an ETag a date names a version once a second change in it is excluded."""
    headers = {"last-modified": modified, "date": SENT}
    assert read_validator(headers) == (modified if strong else None)


def test_dates_need_each_other() -> None:
    """Without Date nobody knows how old the modification was."""
    assert read_validator({"last-modified": SENT}) is None
    assert read_validator({"last-modified": SENT, "date": "soon"}) is None
    assert read_validator({"date": SENT}) is None
    assert read_validator({}) is None


# Retry-After (RFC 9110 section 10.2.3)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0),
        ("120", 120),
        (" 120 ", 120),
        ("999999999999", 999_999_999_999),
        ("Sun, 22 Nov 2026 08:02:00 GMT", 120),
        ("Sunday, 22-Nov-26 08:02:00 GMT", 120),
        ("Sun Nov 22 08:02:00 2026", 120),
        ("Sun, 22 Nov 2026 07:00:00 GMT", 0),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0),
        ("-5", None),
        ("1.5", None),
        ("1e3", None),
        ("\u0661\u0662", None),
        ("9" * 13, None),
        ("soon", None),
        ("", None),
        ("120, 240", None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    """A number of seconds or a date in any of its three forms; anything else is no wish."""
    assert read_retry_after(value, NOW) == seconds


@pytest.mark.parametrize("zone", ["UTC", "Asia/Shanghai", "America/St_Johns"])
def test_dates_do_not_depend_on_where_we_are(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The form without a zone is UTC too, whatever the machine's own zone is."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert read_retry_after("Sun Nov 22 08:02:00 2026", NOW) == 120
    finally:
        monkeypatch.undo()
        time.tzset()


# Anything

names = st.sampled_from(
    (
        *("content-length", "content-range", "content-type", "content-encoding", "etag", "date"),
        *("last-modified", "retry-after", "transfer-encoding"),
    )
)
known = st.sampled_from((*PARTIAL.values(), SENT, "chunked", "multipart/byteranges", "bytes 0-0/1"))
requests = st.sampled_from((WHOLE, PART, Request(40, SENT, None)))


@given(st.integers(100, 599), st.dictionaries(names, st.text(max_size=40) | known), requests)
def test_any_head(status: int, headers: dict[str, str], request_: Request) -> None:
    """Any head gives an offer within the limits, or one of three failures."""
    try:
        offer = read(status, headers, request_)
    except (Changed, Refused, Trouble):
        return
    assert offer.start in {0, request_.start}
    assert offer.total_bytes is None or offer.total_bytes <= MAX
    if offer.start:
        assert offer.validator == request_.validator
        assert offer.total_bytes is not None


@given(st.text(max_size=60))
@example("Mon, 01 Jan 0001 00:00:00 +2359")
@example("Fri, 31 Dec 9999 23:59:59 -2359")
@example("Mon, 32 Jan 2026 25:61:61 GMT")
@example("Thu, 01 Jan 1970 00:00:00 +99999999999")
@example("1 Jan 99999999999 00:00:00")
def test_any_retry_after(value: str) -> None:
    """Whatever the header holds, it is a wish of nothing or more, or none."""
    wish = read_retry_after(value, NOW)
    assert wish is None or wish >= 0
