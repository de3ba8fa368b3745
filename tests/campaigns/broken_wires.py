"""Lies of the wire: streams that break, stall and drip, lengths and frames that are wrong.

Rule: each is one line of a table, with how an attempt that meets it has to end.

Source: RFC 9112 sections 6 (body length), 7.1 (chunks) and 8 (incomplete messages).
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from tests.campaigns.liars import Answer, Bend, Framing, How, Lie, Place, Scene, Scheme

Ends = Mapping[Framing, tuple[str, ...]]

MIB: Final = 1 << 20
TAKEN: Final = ("taken",)
RESTARTED: Final = ("restarted",)
AGAIN: Final = ("trouble > anew",)
GOES_ON: Final = ("trouble > resumed",)
THERE: Final = ("trouble > nothing asked",)
"""All bytes had come: what is left to do needs no host."""
SPOILED: Final = ("spoiled > anew",)
BOTH: Final[tuple[Scheme, ...]] = ("http", "https")


def ends(length: tuple[str, ...], chunked: tuple[str, ...], close: tuple[str, ...]) -> Ends:
    """Return the allowed ends by framing."""
    return {"length": length, "chunked": chunked, "close": close}


def every(*allowed: str) -> Ends:
    """Return the same ends for every framing."""
    return ends(allowed, allowed, allowed)


PERSISTENT: Final = 99
"""aiohttp asks a second time by itself when a host hangs up without an answer."""
NEVER: Final[Ends] = {}
FAILS: Final[tuple[Ends, Ends]] = (every(*AGAIN), every(*GOES_ON))
"""Trouble before a byte of use: nothing is lost, nothing is won."""

_IN_HEAD: Final[Mapping[str, Place]] = {
    "before a byte": lambda _: 0,
    "after a byte": lambda _: 1,
    "in the middle of the headers": lambda wire: wire.head_bytes // 2,
    "at the end of the headers": lambda wire: wire.head_bytes,
}
_IN_BODY: Final[Mapping[str, Place]] = {
    "after the first byte of the body": lambda wire: wire.place(1),
    "in the middle of the body": lambda wire: wire.place(wire.body_bytes // 2),
    "a byte before the end": lambda wire: wire.place(wire.body_bytes - 1),
}
_AT_EDGE: Final[Mapping[str, Place]] = {
    "a byte before a block's edge": lambda wire: wire.place(MIB - 1),
    "at a block's edge": lambda wire: wire.place(MIB),
    "a byte behind a block's edge": lambda wire: wire.place(MIB + 1),
}


def _at_total(how: How) -> tuple[Ends, Ends]:
    """All bytes came: with a length, or a total from elsewhere, nothing more is needed."""
    close = THERE if how == "stall" else TAKEN
    # Without the last chunk nothing says that there was no more.
    return ends(TAKEN, GOES_ON, close), ends(TAKEN, THERE, close)


def _breaks() -> Iterator[Lie]:
    kinds: tuple[tuple[How, str, tuple[Scheme, ...]], ...] = (
        ("fin", "end", BOTH),
        ("unsaid fin", "end without close_notify", ("https",)),
        ("reset", "reset", BOTH),
        ("stall", "silence", BOTH),
    )
    for how, word, schemes in kinds:
        hasty = how == "stall"
        for where, place in _IN_HEAD.items():
            yield Lie(
                name=f"{word} {where}",
                fresh=FAILS[0],
                resumed=FAILS[1],
                breaks_at=place,
                how=how,
                requests=PERSISTENT,
                schemes=schemes,
                hasty=hasty,
                saves=True,
            )
        for where, place in {**_IN_BODY, **_AT_EDGE}.items():
            yield Lie(
                name=f"{word} {where}",
                fresh=every(*GOES_ON),
                resumed=every(*GOES_ON),
                breaks_at=place,
                how=how,
                schemes=schemes,
                hasty=hasty,
                saves=True,
                large=where in _AT_EDGE,
            )
        fresh, resumed = _at_total(how)
        yield Lie(
            name=f"{word} behind the last byte",
            fresh=fresh,
            resumed=resumed,
            breaks_at=lambda wire: wire.place(wire.body_bytes),
            how=how,
            schemes=schemes,
            hasty=hasty,
            saves=True,
        )


def _drips() -> Iterator[Lie]:
    yield Lie(
        name="dripping headers",
        fresh=FAILS[0],
        resumed=FAILS[1],
        breaks_at=lambda _: 0,
        how="drip",
        bend=put(**{"X-Long": "x" * 3000}),
        hasty=True,
        saves=True,
    )
    yield Lie(
        name="a dripping body",
        fresh=every(*GOES_ON),
        resumed=every(*GOES_ON),
        breaks_at=lambda wire: wire.place(70_000),
        how="drip",
        hasty=True,
        saves=True,
    )


def put(status: str | None = None, **headers: str | None) -> Bend:
    """Change the status and headers (`_` in a name is `-`, None removes one).

    `{start}`, `{last}` and `{total}` in a value are those of the honest answer.
    """

    def bend(scene: Scene, answer: Answer) -> None:
        start = len(scene.film) - len(answer.body)
        known = {"start": start, "last": len(scene.film) - 1, "total": len(scene.film)}
        known |= {"less": start - 1, "more": start + 1, "early": len(scene.film) - 2}
        known |= {"length": len(answer.body), "over": len(scene.film) + 1}
        answer.status = status or answer.status
        for name, value in headers.items():
            spelled = name.replace("_", "-")
            answer.headers.pop(spelled, None)
            if value is not None:
                answer.headers[spelled] = value.format(**known)

    return bend


def raw(content: Callable[[Answer], bytes]) -> Bend:
    """Send these bytes in place of an answer."""

    def bend(_: Scene, answer: Answer) -> None:
        answer.raw = content(answer)

    return bend


def frame(spoil: Callable[[bytes], bytes]) -> Bend:
    """Spoil the framed body."""

    def bend(_: Scene, answer: Answer) -> None:
        answer.wrong_frame = spoil

    return bend


def _length(value: Callable[[int], str]) -> Bend:
    def bend(_: Scene, answer: Answer) -> None:
        answer.headers["Content-Length"] = value(len(answer.body))

    return bend


def _by_length(
    name: str,
    value: Callable[[int], str],
    fresh: tuple[str, ...],
    *,
    resumed: tuple[str, ...],
    hasty: bool = False,
) -> Lie:
    return Lie(
        name=name,
        fresh={"length": fresh},
        resumed={"length": resumed},
        bend=_length(value),
        hasty=hasty,
    )


def _lengths() -> Iterator[Lie]:
    # Whether aiohttp sees the bytes behind a length together with those before is a matter of luck.
    yield _by_length(
        "a short length", lambda n: str(n - 1000), SPOILED + GOES_ON + AGAIN, resumed=RESTARTED
    )
    yield _by_length(
        "a length short by one", lambda n: str(n - 1), SPOILED + GOES_ON + AGAIN, resumed=RESTARTED
    )
    yield _by_length("a long length", lambda n: str(n + 1000), GOES_ON + AGAIN, resumed=RESTARTED)
    yield _by_length(
        "a length long by one", lambda n: str(n + 1), GOES_ON + AGAIN, resumed=RESTARTED
    )
    yield _by_length(
        "length 0 before a body", lambda _: "0", SPOILED + AGAIN, resumed=RESTARTED + GOES_ON
    )
    for name, value in {
        "a negative length": lambda n: str(-n),
        "a length in words": lambda _: "many",
        "a length with a plus": lambda n: f"+{n}",
        "a length in hexadecimal": hex,
        "a length with a point": lambda n: f"{n}.0",
        "no length in its header": lambda _: "",
        "a length of 30 digits": lambda _: "9" * 30,
        "a length as a list": lambda n: f"{n}, {n}",
        "the same length twice": lambda n: f"{n}\r\nContent-Length: {n}",
        "two lengths": lambda n: f"{n}\r\nContent-Length: {n - 7}",
    }.items():
        yield _by_length(name, value, AGAIN, resumed=GOES_ON)


def _framed(
    name: str, spoil: Callable[[bytes], bytes], fresh: tuple[str, ...], resumed: tuple[str, ...]
) -> Lie:
    return Lie(
        name=name,
        fresh={"chunked": fresh},
        resumed={"chunked": resumed},
        bend=frame(spoil),
    )


def _frames() -> Iterator[Lie]:
    second = 65_536 + 7 + 2
    yield _framed(
        "a chunk of nonsense size",
        lambda w: w[:second] + b"zz\r\n" + w[second:],
        GOES_ON + AGAIN,
        GOES_ON,
    )
    yield _framed(
        "a chunk of negative size",
        lambda w: w[:second] + b"-5\r\n" + w[second:],
        GOES_ON + AGAIN,
        GOES_ON,
    )
    yield _framed(
        "a chunk of endless size",
        lambda w: w[:second] + b"f" * 40 + b"\r\n" + w[second:],
        GOES_ON + AGAIN,
        GOES_ON,
    )
    yield _framed(
        "a chunk without its end of line",
        lambda w: w[: second - 2] + w[second:],
        GOES_ON + AGAIN,
        GOES_ON,
    )
    yield _framed("the last chunk too early", lambda w: w[:second] + b"0\r\n\r\n", SPOILED, GOES_ON)
    yield _framed("the last chunk alone", lambda _: b"0\r\n\r\n", SPOILED, GOES_ON)
    yield _framed(
        "no chunks where some were announced", lambda _: b"film " * 20_000, AGAIN, GOES_ON
    )
    yield _framed(
        "a chunk with an extension", lambda w: w.replace(b"\r\n", b";a=b\r\n", 1), TAKEN, TAKEN
    )
    yield _framed("a trailer", lambda w: w[:-2] + b"X-Sum: 1\r\n\r\n", TAKEN, TAKEN)
    yield Lie(
        name="a length beside chunks",
        fresh={"chunked": AGAIN},
        resumed={"chunked": GOES_ON},
        bend=put(Content_Length="{length}"),
    )
    yield Lie(
        name="chunks that are announced twice",
        fresh={"chunked": AGAIN},
        resumed={"chunked": GOES_ON},
        bend=raw(
            lambda a: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n" + a.body
        ),
    )


def _heads() -> Iterator[Lie]:
    for name, content in {
        "garbage": lambda _: b"garbage\r\n\r\n",
        "bytes of a film without headers": lambda a: a.body,
        "another protocol": lambda _: b"SSH-2.0-OpenSSH_9.2\r\n",
        "an error of TLS": lambda _: b"\x15\x03\x01\x00\x02\x02\x28",
        "a status of no class": lambda _: b"HTTP/1.1 999 Odd\r\nContent-Length: 3\r\n\r\nodd",
        "a status in words": lambda _: b"HTTP/1.1 fine\r\nContent-Length: 3\r\n\r\nodd",
        "a header without a colon": lambda a: b"HTTP/1.1 200 OK\r\nnothing\r\n\r\n" + a.body,
        "a header with a zero byte": lambda a: b"HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n" + a.body,
        "a header of 100 KB": lambda a: (
            b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n" + a.body
        ),
        "headers without end": lambda _: b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 50_000,
        "a switch of protocols": lambda _: (
            b"HTTP/1.1 101 Go\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"
        ),
    }.items():
        yield Lie(name=name, fresh=FAILS[0], resumed=FAILS[1], bend=raw(content))


WIRE_LIES: Final = (*_breaks(), *_drips(), *_lengths(), *_frames(), *_heads())
