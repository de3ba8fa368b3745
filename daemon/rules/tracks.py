"""The tracks of a film: what they are coded in, how large they are, and where their samples lie.

Rule: a decoder sees only what a music video is made of. FFmpeg chooses its decoder by the four
characters of a sample entry and by what stands in it, whatever the handler of the track says, so
all entries of all tracks are judged. The samples of a track lie in the film's own file.

Source: ISO/IEC 14496-12, sections 8.3 to 8.7 and 12; 14496-1, section 7.2.6 (`esds`).
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from daemon.rules.boxes import Box, BoxReader, damaged, find, not_our_film, require
from daemon.rules.places import search

VIDEO: Final = b"vide"
SOUND: Final = b"soun"

VIDEO_CODECS: Final = frozenset((b"avc1", b"avc3", b"hvc1", b"hev1", b"av01", b"vp09"))
SOUND_CODECS: Final = frozenset((b"mp4a", b"Opus"))
TEXT_CODECS: Final = frozenset((b"tmcd", b"text", b"tx3g"))
"""Timecode, chapters and subtitles, which no decoder is ever given."""

MIN_PIXELS: Final = 16
MAX_PIXELS: Final = 8192

_MEDIA_HANDLERS: Final = frozenset((VIDEO, SOUND, b"m1a ", b"subp", b"clcp"))
_ACCEPTED: Final[Mapping[bytes, frozenset[bytes]]] = {VIDEO: VIDEO_CODECS, SOUND: SOUND_CODECS}
# The fixed fields of a sample entry, by the version of one of sound (QuickTime has three).
_VIDEO_ENTRY_BYTES: Final = 78
_SOUND_ENTRY_BYTES: Final = (28, 44, 64)
# Three numbers of depth mean a table of colours, which stands where other boxes would.
_WITH_PALETTE: Final = (1, 2, 4, 8)
# AAC of MPEG-4 and MPEG-2, and MP3; the other numbers are other codecs, pictures among them.
_MP4A_CODECS: Final = frozenset((0x40, 0x66, 0x67, 0x68, 0x69, 0x6B))
_ES_DESCRIPTOR: Final = 3
_DECODER_DESCRIPTOR: Final = 4
_SELF_CONTAINED: Final = 1


@dataclass(frozen=True, slots=True)
class Track:
    """One track; `timescale` is its units of time in a second, `stbl` holds its sample tables."""

    track_id: int
    handler: bytes
    timescale: int
    stbl: list[Box]
    width: int
    height: int
    codec: str
    sample_rate: int | None


def read_track(reader: BoxReader, trak: Box) -> Track:
    """Read a `trak` box, and refuse what a decoder is not to see."""
    parts = reader.children(trak)
    tkhd = require(parts, b"tkhd", "trak")
    wide = reader.fields(tkhd, ">B") == (1,)
    (track_id,) = reader.fields(tkhd, ">I", 20 if wide else 12)
    shown = reader.fields(tkhd, ">H2xH2x", 88 if wide else 76)
    mdia = reader.children(require(parts, b"mdia", "trak"))
    aside = search(reader, parts + mdia)
    timescale, _ = read_times(reader, require(mdia, b"mdhd", "mdia"))
    handler = bytes(reader.fields(require(mdia, b"hdlr", "mdia"), "4B", 8))
    minf = reader.children(require(mdia, b"minf", "mdia"))
    _expect_one_handler(reader, aside + minf)
    dinf = find(minf, b"dinf")
    if dinf is not None:
        _expect_own_samples(reader, reader.children(dinf))
    stbl = reader.children(require(minf, b"stbl", "minf"))
    entries = _sample_entries(reader, require(stbl, b"stsd", "stbl"))
    sizes = [_judge_entry(reader, entry, handler) for entry in entries]
    if entries[0].kind in VIDEO_CODECS:
        for side in filter(None, shown):
            _expect_pixels(side, "the track header")
        shown = shown if all(shown) else sizes[0]
    sample_rate = None
    if handler == SOUND:
        # The field holds 16 bits. Beyond them writers put 0, QuickTime 1, and the rate is the
        # timescale (section 12.2.3).
        (stated,) = reader.fields(entries[0], ">H", 24)
        sample_rate = stated if stated > 1 else timescale
    width, height = shown
    return Track(track_id, handler, timescale, stbl, width, height, entries[0].name, sample_rate)


def read_times(reader: BoxReader, header: Box) -> tuple[int, int]:
    """Read timescale and duration of a `mvhd` or `mdhd` box; all ones mean: not known."""
    if reader.fields(header, ">B") == (1,):
        timescale, duration = reader.fields(header, ">IQ", 20)
        unknown = 2**64 - 1
    else:
        timescale, duration = reader.fields(header, ">II", 12)
        unknown = 2**32 - 1
    if not timescale:
        raise damaged(f"the {header.name} box has no units of time")
    return timescale, 0 if duration == unknown else duration


def _expect_one_handler(reader: BoxReader, boxes: list[Box]) -> None:
    """Refuse a `hdlr` box outside `mdia` that speaks of media: FFmpeg believes the last one."""
    for box in boxes:
        if box.kind == b"hdlr":
            handler = bytes(reader.fields(box, "4B", 8))
            if handler in _MEDIA_HANDLERS:
                raise not_our_film(f"a second hdlr box makes the track one of {handler.decode()}")


def _expect_own_samples(reader: BoxReader, dinf: list[Box]) -> None:
    """Refuse samples in other files. Without a `dref` box they lie in this one for FFmpeg too."""
    dref = find(dinf, b"dref")
    if dref is None:
        return
    places = reader.children(dref, skip=8)
    _expect_count(reader, dref, places)
    for place in places:
        if place.kind != b"url ":
            raise not_our_film(
                f"the samples are said to lie elsewhere: {place.name} in the dref box"
            )
        (flags,) = reader.fields(place, ">I")
        location = reader.read(place.body + 4, min(place.end - place.body - 4, 2))
        if flags != _SELF_CONTAINED or location.strip(b"\0"):
            raise not_our_film("the samples are said to lie at a location outside the file")


def _sample_entries(reader: BoxReader, stsd: Box) -> list[Box]:
    (version,) = reader.fields(stsd, ">B")
    if version:
        raise not_our_film(f"the stsd box has version {version}, in which sound is told otherwise")
    entries = reader.children(stsd, skip=8, any_kind=True)
    if not entries:
        raise damaged("the stsd box names no codec")
    _expect_count(reader, stsd, entries)
    return entries


def _expect_count(reader: BoxReader, table: Box, entries: list[Box]) -> None:
    (count,) = reader.fields(table, ">I", 4)
    if count != len(entries):
        raise not_our_film(f"the {table.name} box counts {count} entries and has {len(entries)}")


def _judge_entry(reader: BoxReader, entry: Box, handler: bytes) -> tuple[int, ...]:
    """Refuse a sample entry of another codec; give the width and height that it states."""
    accepted = _ACCEPTED.get(handler, VIDEO_CODECS | SOUND_CODECS | TEXT_CODECS)
    if entry.kind not in accepted:
        kind = {VIDEO: "pictures", SOUND: "sound"}.get(handler, "other things")
        codecs = ", ".join(sorted(each.decode() for each in accepted))
        raise not_our_film(f"a track of {kind} is coded as {entry.name}, none of {codecs}")
    if entry.kind in VIDEO_CODECS:
        width, height, depth = reader.fields(entry, ">HH46xH2x", 24)
        for side in (width, height):
            _expect_pixels(side, "the sample entry")
        if depth in _WITH_PALETTE:
            raise not_our_film(f"the {entry.name} sample entry has a palette, as no film has")
        search(reader, reader.loose_children(entry, _VIDEO_ENTRY_BYTES))
        return width, height
    if entry.kind in SOUND_CODECS:
        version, _ = reader.fields(entry, ">H14xI", 8)
        if version >= len(_SOUND_ENTRY_BYTES):
            raise not_our_film(f"the {entry.name} sample entry has version {version}")
        inside = reader.loose_children(entry, _SOUND_ENTRY_BYTES[version])
        for box in inside + search(reader, inside):
            if box.kind == b"esds":
                _judge_esds(reader, box)
    return 0, 0


def _expect_pixels(side: int, where: str) -> None:
    if not MIN_PIXELS <= side <= MAX_PIXELS:
        raise not_our_film(
            f"{where} says that a side has {side} pixels, none from {MIN_PIXELS} to {MAX_PIXELS}"
        )


def _judge_esds(reader: BoxReader, esds: Box) -> None:
    """Refuse an `mp4a` track of which the descriptors in it say that it is another codec."""
    data = reader.read(esds.body, min(esds.end - esds.body, 300))
    try:
        codec = _described_codec(data)
    except (IndexError, struct.error):
        raise damaged("the esds box is too short for its fields") from None
    if codec not in _MP4A_CODECS:
        raise not_our_film(f"the sound is coded as object type {codec:#x}, neither AAC nor MP3")


def _described_codec(data: bytes) -> int:
    """Give the object type of an elementary stream; the descriptors' sizes mean nothing to it."""
    tag, at = _open_descriptor(data, 4)
    if tag != _ES_DESCRIPTOR:
        raise not_our_film(f"the esds box begins with descriptor {tag}, not with a stream's")
    flags = data[at + 2]
    at += 3
    if flags & 0x80:
        at += 2  # the stream that this one depends on
    if flags & 0x40:
        at += 1 + data[at]  # a location
    if flags & 0x20:
        at += 2  # the stream of its clock
    tag, at = _open_descriptor(data, at)
    if tag != _DECODER_DESCRIPTOR:
        raise not_our_film(f"the esds box goes on with descriptor {tag}, not with a decoder's")
    return data[at]


def _open_descriptor(data: bytes, at: int) -> tuple[int, int]:
    """Read a tag, and skip the size after it: seven bits in each of up to four bytes."""
    tag = data[at]
    for place in range(at + 1, at + 5):
        if not data[place] & 0x80:
            return tag, place + 1
    return tag, at + 5
