"""Lies of the answer: a status, a range, a version or a content that is not the film's.

Rule: each is one line of a table, with how an attempt that meets it has to end.

Source: RFC 9110 sections 8.8 (validators), 10.2.3 (Retry-After), 14 (ranges), 15 (status codes).
"""

import gzip
import zlib
from collections.abc import Callable, Iterator
from email.utils import formatdate
from typing import Final

from tests.campaigns.broken_wires import (
    AGAIN,
    FAILS,
    GOES_ON,
    NEVER,
    RESTARTED,
    SPOILED,
    TAKEN,
    Ends,
    ends,
    every,
    put,
)
from tests.campaigns.liars import Answer, Bend, Lie, Scene

REFUSED: Final[tuple[Ends, Ends]] = (every("refused > anew"), every("refused > resumed"))
HTML: Final = b"<!doctype html><html><body>Sorry</body></html>" * 40
DAY: Final = 86_400


def _statuses() -> Iterator[Lie]:
    for status in (400, 401, 402, 403, 404, 405, 410, 418, 451):
        yield Lie(
            name=f"HTTP {status}",
            fresh=REFUSED[0],
            resumed=REFUSED[1],
            bend=_page(status),
            saves=True,
        )
    for status in (408, 425, 429, 500, 501, 502, 503, 504, 507, 520, 522, 524, 529):
        yield Lie(
            name=f"HTTP {status}", fresh=FAILS[0], resumed=FAILS[1], bend=_page(status), saves=True
        )
    for status in (201, 202, 203, 205, 207, 226, 300, 304, 305, 306):
        yield Lie(
            name=f"HTTP {status} with the film",
            fresh=FAILS[0],
            resumed=FAILS[1],
            bend=put(f"{status} Odd"),
        )
    yield Lie(name="HTTP 204", fresh=FAILS[0], resumed=FAILS[1], bend=_page(204, b""))
    for word, value, waits in (
        ("in seconds", "120", (120, 130)),
        ("as a date", formatdate(1_790_000_000 + 300, usegmt=True), (299, 301)),
        ("in the past", formatdate(1_790_000_000 - DAY, usegmt=True), (1, 2)),
        ("negative", "-5", (1, 2)),
        ("of a billion", "1000000000", (3600, 3600)),
        ("of nonsense", "soon", (1, 2)),
    ):
        for status in (429, 503):
            yield Lie(
                name=f"HTTP {status} with a Retry-After {word}",
                fresh=FAILS[0],
                resumed=FAILS[1],
                bend=_page(status, HTML, Retry_After=value),
                waits=waits,
                saves=True,
            )


def _page(status: int, body: bytes = HTML, **headers: str) -> Bend:
    def bend(scene: Scene, answer: Answer) -> None:
        answer.body = body
        put(f"{status} Odd", Content_Range=None, Content_Type="text/html", **headers)(scene, answer)

    return bend


def _ranges() -> Iterator[Lie]:
    wrong: dict[str, str | None] = {
        "an earlier start": "bytes {less}-{last}/{total}",
        "a later start": "bytes {more}-{last}/{total}",
        "the start of the file": "bytes 0-{last}/{total}",
        "an earlier end": "bytes {start}-{early}/{total}",
        "a later end": "bytes {start}-{total}/{total}",
        "a smaller total": "bytes {start}-{early}/{last}",
        "a larger total": "bytes {start}-{total}/{over}",
        "no total": "bytes {start}-{last}/*",
        "no numbers": "bytes */{total}",
        "a negative start": "bytes -{start}-{last}/{total}",
        "end before start": "bytes {last}-{start}/{total}",
        "another unit": "lines {start}-{last}/{total}",
        "nonsense": "all of it",
        "no Content-Range": None,
    }
    for word, value in wrong.items():
        yield _part(f"206 with {word}", put(Content_Range=value))
    yield _part("206 with several parts", put(Content_Type="multipart/byteranges; boundary=x"))
    yield _part("206 of another strong version", put(ETag='"v2"'))
    yield _part("206 of the same version with other bytes", _garble)
    yield _part("206 of a weak version with other bytes", _both(put(ETag='W/"v2"'), _garble))
    yield _part("206 without version with other bytes", _both(put(ETag=None), _garble))
    yield _part("206 whose start is the file's", _from_zero)
    for word, value in {"equal": "bytes */{start}", "less": "bytes */9", "absent": None}.items():
        yield _part(f"416 with */N {word}", put("416 No", Content_Range=value))
    yield _part("416 with */N of the whole", put("416 No", Content_Range="bytes */{total}"))
    yield _part("200 instead of 206", _whole)
    yield _part("200 instead of 206, of another version", _both(_whole, put(ETag='"v2"')))
    yield _part("206 with weak version and the right bytes", put(ETag='W/"v1"'))
    yield Lie(
        name="206 with no version and the right bytes",
        fresh=NEVER,
        resumed=every(*TAKEN),
        bend=put(ETag=None),
    )
    whole = put("206 Partial", Content_Range="bytes 0-{last}/{total}")
    yield Lie(name="206 that nobody asked for", fresh=FAILS[0], resumed=NEVER, bend=whole)
    yield Lie(name="416 that nobody asked for", fresh=FAILS[0], resumed=NEVER, bend=put("416 No"))


def _part(name: str, bend: Bend) -> Lie:
    """Whatever is wrong with a part, the film is fetched from its start in the same attempt."""
    return Lie(name=name, fresh=NEVER, resumed=every(*RESTARTED), bend=bend)


def _both(*bends: Bend) -> Bend:
    def bend(scene: Scene, answer: Answer) -> None:
        for one in bends:
            one(scene, answer)

    return bend


def garbled(body: bytes) -> bytes:
    """Return other bytes, none as it was."""
    return body.translate(bytes(byte ^ 0x5A for byte in range(256)))


def _garble(_: Scene, answer: Answer) -> None:
    answer.body = garbled(answer.body)


def _whole(scene: Scene, answer: Answer) -> None:
    answer.body = scene.film
    put("200 OK", Content_Range=None)(scene, answer)


def _from_zero(scene: Scene, answer: Answer) -> None:
    answer.body = scene.film
    answer.headers["Content-Range"] = f"bytes 0-{len(scene.film) - 1}/{len(scene.film)}"


def _versions() -> Iterator[Lie]:
    old = {"Last_Modified": formatdate(1_700_000_000, usegmt=True)}
    later = formatdate(1_700_000_060, usegmt=True)
    sooner = formatdate(1_700_000_059, usegmt=True)
    for name, bend, then in (
        ("a weak ETag", put(ETag='W/"v1"'), AGAIN),
        ("no ETag", put(ETag=None), AGAIN),
        ("a bare ETag", put(ETag="v1"), AGAIN),
        ("a date too young", put(ETag=None, **old, Date=sooner), AGAIN),
        # The honest host knows no such validator and sends the whole, so nothing is resumed there.
        ("a date only", put(ETag=None, **old, Date=later), GOES_ON),
    ):
        yield Lie(
            name=f"{name} and an end in the middle",
            fresh=every(*then),
            resumed=NEVER,
            bend=bend,
            breaks_at=lambda wire: wire.place(wire.body_bytes // 2),
            how="fin",
        )
    yield Lie(
        name="other bytes at every request, no length",
        fresh={"close": AGAIN},
        resumed=NEVER,
        bend=_always_other,
        requests=99,
        probes=True,
    )
    yield Lie(
        name="neither ranges nor a length",
        fresh={"close": RESTARTED},
        resumed={"close": RESTARTED},
        bend=_no_ranges,
        requests=99,
        probes=True,
    )


def _no_ranges(scene: Scene, answer: Answer) -> None:
    _whole(scene, answer)
    put(ETag=None, Accept_Ranges=None)(scene, answer)


def _always_other(scene: Scene, answer: Answer) -> None:
    _no_ranges(scene, answer)
    noise = bytes([scene.lies_told & 255])
    answer.body = scene.film[:-1] + noise


def _contents() -> Iterator[Lie]:
    packings: dict[str, Callable[[bytes], bytes]] = {
        "gzip": lambda body: gzip.compress(body, 1),
        "deflate": lambda body: zlib.compress(body, 1),
    }
    for coding, packed in packings.items():
        yield Lie(
            # The length of what is packed contradicts the range.
            name=f"a body in {coding}",
            fresh=FAILS[0],
            resumed=ends(RESTARTED, GOES_ON, GOES_ON),
            bend=_pack(packed, Content_Encoding=coding),
        )
    yield Lie(
        name="a body said to be in br",
        fresh=FAILS[0],
        resumed=FAILS[1],
        bend=put(Content_Encoding="br"),
    )
    yield Lie(
        name="a body in gzip that nothing says",
        fresh=every(*SPOILED),
        resumed=ends(RESTARTED, RESTARTED, RESTARTED),
        bend=_pack(gzip.compress),
    )
    yield Lie(
        name="a body that is said to be as it is",
        fresh=every(*TAKEN),
        resumed=every(*TAKEN),
        bend=put(Content_Encoding="identity"),
    )
    pages: dict[str, bytes] = {
        "a page": HTML,
        "an error in JSON": b'{"code":500,"msg":"no such file"}',
        "an error in XML": b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code></Error>",
        "a playlist": b"#EXTM3U\n#EXT-X-VERSION:3\n" * 10,
        "an empty file": b"",
        "one byte": b"\0",
        "the word ftyp and no more": b"\0\0\0\x18ftypmp42",
    }
    for name, body in pages.items():
        # Too short to be told from a film; the honest probe says that there is more of it.
        short = ends(SPOILED, SPOILED, GOES_ON if body else AGAIN)
        for kind in ("text/html", "video/mp4"):
            how = every(*SPOILED) if len(body) > 8 and b"ftyp" not in body else short
            yield Lie(
                name=f"{name} as {kind}",
                fresh=how,
                resumed=how,
                bend=_instead(body, kind),
            )
    yield Lie(
        name="a byte too many",
        fresh=every(*SPOILED),
        resumed=ends(RESTARTED, SPOILED, SPOILED),
        bend=_longer(1),
    )
    yield Lie(
        name="a thousand bytes too many",
        fresh=every(*SPOILED),
        resumed=ends(RESTARTED, SPOILED, SPOILED),
        bend=_longer(1000),
    )
    for name, flip in FLIPS.items():
        yield Lie(
            name=f"a bit flipped in {name}",
            fresh=every(*SPOILED),
            resumed=NEVER,
            bend=_flip(flip),
        )
    yield Lie(
        name="a bit flipped in the overlap",
        fresh=NEVER,
        resumed=every(*RESTARTED),
        bend=_flip_first,
    )


def _pack(pack: Callable[[bytes], bytes], **headers: str) -> Bend:
    def bend(scene: Scene, answer: Answer) -> None:
        answer.body = pack(answer.body)
        put(**headers)(scene, answer)

    return bend


def _instead(body: bytes, kind: str) -> Bend:
    def bend(scene: Scene, answer: Answer) -> None:
        answer.body = body
        put("200 OK", Content_Range=None, Content_Type=kind, ETag='"page"')(scene, answer)

    return bend


def _longer(count: int) -> Bend:
    def bend(_: Scene, answer: Answer) -> None:
        answer.body += b"\0" * count

    return bend


def _size_of(kind: bytes) -> Callable[[bytes], int]:
    """Return where the size of the first box of a kind stands."""

    def find(film: bytes) -> int:
        at = 0
        while film[at + 4 : at + 8] != kind:
            at += int.from_bytes(film[at : at + 4])
        return at

    return find


FLIPS: Final[dict[str, Callable[[bytes], int]]] = {
    "the kind of the first box": lambda _: 5,
    "the size of the first box": lambda _: 0,
    "the size of moov": _size_of(b"moov"),
    "the size of mdat": _size_of(b"mdat"),
    "the size of the padding": _size_of(b"free"),
}


def _flip_first(_: Scene, answer: Answer) -> None:
    # The first byte of a part is always one that is compared.
    answer.body = bytes([answer.body[0] ^ 0x40]) + answer.body[1:]


def _flip(where: Callable[[bytes], int]) -> Bend:
    """Flip a bit at a place of the film, where that place is in the answer."""

    def bend(scene: Scene, answer: Answer) -> None:
        at = where(scene.film) - len(scene.film) + len(answer.body)
        if at >= 0:
            flipped = bytes([answer.body[at] ^ 0x40])
            answer.body = answer.body[:at] + flipped + answer.body[at + 1 :]

    return bend


ANSWER_LIES: Final = (*_statuses(), *_ranges(), *_versions(), *_contents())
