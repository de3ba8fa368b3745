"""Films of a few hundred bytes, built by hand: the parts that tests put together, and break.

Rule: `FILM` is whole and accepted, and each part has one builder.
"""

import io
import struct

import pytest

from daemon.rules.failure import Reason, Spoiled
from daemon.rules.mp4 import Film, inspect

FTYP = b"\0\0\0\x10ftypisom\0\0\0\0"
DATA = 24  # where the samples begin when the file is FTYP and a mdat box
WIDE, TALL = 720, 1280
ALL_ONES = 2**32 - 1


def u16(*numbers: int) -> bytes:
    """Pack numbers of 16 bits."""
    return struct.pack(f">{len(numbers)}H", *numbers)


def u32(*numbers: int) -> bytes:
    """Pack numbers of 32 bits."""
    return struct.pack(f">{len(numbers)}I", *numbers)


def u64(*numbers: int) -> bytes:
    """Pack numbers of 64 bits."""
    return struct.pack(f">{len(numbers)}Q", *numbers)


def box(kind: str, *parts: bytes, size: int | None = None) -> bytes:
    """Build a box, and lie about its size when told to."""
    body = b"".join(parts)
    return u32(8 + len(body) if size is None else size) + kind.encode() + body


def large_box(kind: str, *parts: bytes, size: int | None = None) -> bytes:
    """Build a box with a size of 64 bits."""
    body = b"".join(parts)
    return u32(1) + kind.encode() + u64(16 + len(body) if size is None else size) + body


MVHD = box("mvhd", u32(0, 0, 0, 1000, 2000), bytes(80))
TKHD = box("tkhd", u32(0, 0, 0, 1, 0, 2000), bytes(52), u16(WIDE, 0, TALL, 0))
MDHD = box("mdhd", u32(0, 0, 0, 100, 200, 0))
AVC1 = box("avc1", bytes(24), u16(WIDE, TALL), bytes(50))
STTS = box("stts", u32(0, 1, 4, 50))
NO_SAMPLES = b"".join(
    box(kind, u32(*[0] * fields))
    for kind, fields in (("stts", 2), ("stsz", 3), ("stsc", 2), ("stco", 2))
)


def hdlr(kind: str) -> bytes:
    """Build the box that says what a track is: `vide`, `soun`, `text`."""
    return box("hdlr", u32(0, 0), kind.encode(), bytes(13))


def stsd(*entries: bytes) -> bytes:
    """Build the box that names the codec."""
    return box("stsd", u32(0, len(entries)), *entries)


def mp4a(sample_rate: int) -> bytes:
    """Build an audio sample entry; the rate is a field of 16 bits."""
    return box("mp4a", bytes(8), bytes(16), u16(sample_rate, 0))


def tables(start: int = DATA) -> bytes:
    """Build the sample tables: one chunk of 4 samples of 10 bytes, half a second each."""
    return (
        STTS
        + box("stsz", u32(0, 10, 4))
        + box("stsc", u32(0, 1, 1, 4, 1))
        + box("stco", u32(0, 1, start))
    )


def trak(
    table: bytes,
    *,
    tkhd: bytes = TKHD,
    mdhd: bytes = MDHD,
    handler: bytes = hdlr("vide"),
    description: bytes = stsd(AVC1),
) -> bytes:
    """Build a track, of pictures unless told otherwise."""
    stbl = box("stbl", description, table)
    return box("trak", tkhd, box("mdia", mdhd, handler, box("minf", stbl)))


def sound(sample_rate: int, mdhd: bytes = MDHD) -> bytes:
    """Build a track of sound without samples."""
    return trak(NO_SAMPLES, mdhd=mdhd, handler=hdlr("soun"), description=stsd(mp4a(sample_rate)))


VIDEO = trak(tables())
MOOV = box("moov", MVHD, VIDEO)
MDAT = box("mdat", bytes(40))
FILM = FTYP + MDAT + MOOV


def judge(data: bytes) -> Film:
    """Inspect bytes that are in memory."""
    return inspect(io.BytesIO(data), len(data))


def refusal(data: bytes) -> tuple[Reason, str]:
    """Inspect bytes that must be refused; say why they were."""
    with pytest.raises(Spoiled) as caught:
        judge(data)
    return caught.value.reason, caught.value.message


def lasting(milliseconds: int) -> bytes:
    """Build a movie header that says how long the film is."""
    return box("mvhd", u32(0, 0, 0, 1000, milliseconds), bytes(80))


def film(*parts: bytes, track: bytes = VIDEO) -> bytes:
    """Build the film with more boxes in its `moov` box, or with another track."""
    return FTYP + MDAT + box("moov", MVHD, track, *parts)


def pictures(kind: str = "avc1", *parts: bytes, size: tuple[int, int] = (WIDE, TALL)) -> bytes:
    """Build a sample entry of pictures with boxes in it."""
    return box(kind, bytes(24), u16(*size), bytes(50), *parts)


def voice(*parts: bytes, kind: str = "mp4a", version: int = 0) -> bytes:
    """Build a sample entry of sound with boxes in it, in one of QuickTime's versions."""
    more = bytes((0, 16, 36, 36)[version])
    return box(kind, bytes(8), u16(version), bytes(14), u16(48_000, 0), more, *parts)


def described(*entries: bytes, kind: str = "vide") -> bytes:
    """Build the film with a track of pictures and a second track that has these entries."""
    return film(trak(NO_SAMPLES, handler=hdlr(kind), description=stsd(*entries)))


def esds(codec: int) -> bytes:
    """Build the descriptors of a stream, as most writers do."""
    return box("esds", bytes(4), b"\x03\x19\0\1\0", b"\x04\x11", bytes([codec]), bytes(12))


def dinf(*entries: bytes) -> bytes:
    """Build the box that says which files hold the samples."""
    return box("dinf", box("dref", u32(0, len(entries)), *entries))


def kept_in(*entries: bytes) -> bytes:
    """Build the film with a `dinf` box in its track, that has these entries."""
    stbl = box("stbl", stsd(AVC1), tables())
    mdia = box("mdia", MDHD, hdlr("vide"), box("minf", dinf(*entries), stbl))
    return film(track=box("trak", TKHD, mdia))
