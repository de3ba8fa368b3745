"""Is the film whole? A walk over the boxes of an MP4 file, without its samples.

Rule: a film is accepted only when its own bytes prove its end; that it has as many bytes as the
server announced is checked elsewhere, and both must hold. Boxes tile the file, `ftyp` comes first,
`moov` and `mdat` are there, and every sample lies in a `mdat`. A file of fragments could end after
any of them, so it needs a proof of its own: a `mfra` box at the end, or a `mehd` duration that its
fragments fill. A `sidx` is none, for it may count one segment of many.

Source: ISO/IEC 14496-12, sections 4.2, 4.3, 8.1 to 8.8 and 12.
"""

from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO, Final, Literal

from daemon.rules.boxes import Box, BoxReader, damaged, find, not_our_film, require, truncated
from daemon.rules.places import expect_places, search
from daemon.rules.samples import (
    Defaults,
    MediaData,
    claim_fragment,
    claim_tables,
    table_duration,
)
from daemon.rules.tracks import SOUND, VIDEO, Track, read_times, read_track

Layout = Literal["faststart", "moov_last", "fragmented"]

MAX_MOOV_BYTES: Final = 64 * 2**20
MAX_TRACKS: Final = 8

MIN_SECONDS: Final = 1
MAX_SECONDS: Final = 6 * 3600

_HEADER_BYTES: Final = 8
_SIZE_BYTES: Final = 4
_PADDING: Final = (b"free", b"skip")
_LIKENESSES: Final = (
    (b"<?xml", "an XML document"),
    (b"<mpd", "a playlist"),
    (b"<svg", "a drawing"),
    (b"<html", "an HTML page"),
    (b"<!doctype", "an HTML page"),
    (b"<", "an HTML page"),
    (b"{", "a JSON document"),
    (b"[", "a JSON document"),
    (b"#extm3u", "a playlist"),
    (b"ffconcat", "a playlist"),
)


@dataclass(frozen=True, slots=True)
class Film:
    """What a whole film says about itself; None is what it does not say.

    Codecs are the four characters of the sample entry (`avc1`, `mp4a`), sizes are in pixels, the
    sample rate is in hertz.
    """

    duration_seconds: float | None
    width: int | None
    height: int | None
    video_codec: str | None
    audio_codec: str | None
    audio_sample_rate: int | None
    layout: Layout


def inspect(file: BinaryIO, size_bytes: int) -> Film:
    """Judge the `size_bytes` of an open, seekable file by its boxes.

    The work is bounded: 20,000 boxes, 8 tracks, a `moov` of 64 MiB, 16 MiB of tables. No more than
    nine boxes are opened inside one another, however deep they go.

    Raises:
        Spoiled: the reason is `not_a_video` when the file is no film that we accept, `truncated` or
            `damaged` when it is not whole; the message says what was found.
        OSError: the disk failed.
    """
    reader = BoxReader(file, size_bytes, expect_places)
    _expect_ftyp(reader)
    boxes = reader.top_level()
    search(reader, boxes)
    moov = find(boxes, b"moov")
    mdats = [box for box in boxes if box.kind == b"mdat"]
    if moov is None or not mdats:
        raise truncated(f"the file ends before its {'mdat' if moov else 'moov'} box")
    if sum(box.kind == b"moov" for box in boxes) > 1:
        raise damaged("the file has two moov boxes")
    last = boxes[-1]
    if last.open_ended and last.kind in (b"moov", b"moof"):
        raise truncated(f"the {last.name} box states no size, so nothing proves it whole")

    movie = _movie(reader, moov)
    video = next((track for track in movie.tracks if track.handler == VIDEO), None)
    if video is None:
        raise not_our_film("the file has no video track")
    sound = next((track for track in movie.tracks if track.handler == SOUND), None)

    media = MediaData(mdats, size_bytes)
    longest = _claim_samples(reader, boxes, movie, media)
    if movie.fragmented:
        _prove_end(reader, boxes, movie, longest)
    if last.open_ended and last.kind == b"mdat" and media.end != size_bytes:
        raise damaged(f"the mdat box states no size and the samples in it end at {media.end}")
    if last.end != size_bytes:
        raise damaged(f"the {size_bytes - last.end} bytes after the last box are no box")
    duration = _duration(movie, longest)
    _expect_seconds(duration, longest)
    return Film(
        duration_seconds=float(duration),
        width=video.width,
        height=video.height,
        video_codec=video.codec,
        audio_codec=sound.codec if sound else None,
        audio_sample_rate=sound.sample_rate if sound else None,
        layout=_layout(movie, moov, mdats[0]),
    )


def begins_as_film(head: bytes) -> bool:
    """Say whether the first bytes of a file can be a film's; below eight they may still become one.

    Only a file signature of fixed size may stand before `ftyp` (section 4.3), and MP4 has none.
    """
    return b"ftyp".startswith(head[4:8])


def _expect_ftyp(reader: BoxReader) -> None:
    head = reader.read(0, min(reader.size_bytes, 64))
    if len(head) >= _HEADER_BYTES and begins_as_film(head):
        end = int.from_bytes(head[:4])
        behind = reader.read(end, min(max(reader.size_bytes - end, 0), 16)) if end else b""
        for beginning, likeness in _LIKENESSES:
            # A shorter one could be the size of a box.
            if len(beginning) >= _SIZE_BYTES and behind.lower().startswith(beginning):
                raise not_our_film(f"behind its ftyp box the file is {likeness}, no MP4 film")
        return
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for beginning, likeness in _LIKENESSES:
        if text.startswith(beginning):
            raise not_our_film(f"the file is {likeness}, no MP4 film")
    found = f"it begins with {head[:16]!r}" if head else "it is empty"
    raise not_our_film(f"the file is no MP4 film: {found}")


@dataclass(frozen=True, slots=True)
class _Movie:
    """What the `moov` box says; durations are in units of `timescale`, 0 when not known."""

    timescale: int
    duration: int
    tracks: list[Track]
    fragmented: bool
    fragment_duration: int
    defaults: dict[int, Defaults]


def _movie(reader: BoxReader, moov: Box) -> _Movie:
    if moov.size_bytes > MAX_MOOV_BYTES:
        raise not_our_film(f"the moov box has {moov.size_bytes} bytes, too many for a film")
    parts = reader.children(moov)
    search(reader, parts)
    timescale, duration = read_times(reader, require(parts, b"mvhd", "moov"))
    traks = [box for box in parts if box.kind == b"trak"]
    if len(traks) > MAX_TRACKS:
        raise not_our_film(f"the film has {len(traks)} tracks, more than {MAX_TRACKS}")
    mvex = find(parts, b"mvex")
    extends = reader.children(mvex) if mvex else []
    return _Movie(
        timescale=timescale,
        duration=duration,
        tracks=[read_track(reader, trak) for trak in traks],
        fragmented=mvex is not None,
        fragment_duration=_fragment_duration(reader, extends),
        defaults=dict(_defaults(reader, box) for box in extends if box.kind == b"trex"),
    )


def _fragment_duration(reader: BoxReader, extends: list[Box]) -> int:
    mehd = find(extends, b"mehd")
    if mehd is None:
        return 0
    layout = ">Q" if reader.fields(mehd, ">B") == (1,) else ">I"
    return reader.fields(mehd, layout, 4)[0]


def _defaults(reader: BoxReader, trex: Box) -> tuple[int, Defaults]:
    track_id, duration, size_bytes = reader.fields(trex, ">I4xII", 4)
    return track_id, Defaults(duration, size_bytes)


def _claim_samples(
    reader: BoxReader, boxes: list[Box], movie: _Movie, media: MediaData
) -> Fraction:
    """Claim the samples of all tracks and fragments; give the seconds of the longest track."""
    for track in movie.tracks:
        claim_tables(reader, track.stbl, media)
    durations: Counter[int] = Counter()
    for box in boxes:
        if box.kind == b"moof":
            durations.update(claim_fragment(reader, box, movie.defaults, media))
    if not media.end:
        raise damaged("the film has no samples")
    return max(
        Fraction(table_duration(reader, track.stbl) + durations[track.track_id], track.timescale)
        for track in movie.tracks
    )


def _prove_end(reader: BoxReader, boxes: list[Box], movie: _Movie, longest: Fraction) -> None:
    """Padding may follow the `mfra` box: it holds no sample, so the proof stands."""
    last = [box for box in boxes if box.kind not in _PADDING][-1]
    if last.kind == b"mfra":
        for box in reader.children(last)[-1:]:
            if box.kind == b"mfro" and reader.fields(box, ">I", 4) == (last.size_bytes,):
                return
        raise damaged("the mfra box does not end with its own size")
    # A writer may round the duration up by less than one unit.
    if 0 < movie.fragment_duration < longest * movie.timescale + 1:
        return
    raise truncated(
        "a film in fragments that does not prove its end: no mfra box at the end, "
        "no mehd duration that the fragments fill"
    )


def _layout(movie: _Movie, moov: Box, mdat: Box) -> Layout:
    if movie.fragmented:
        return "fragmented"
    return "faststart" if moov.start < mdat.start else "moov_last"


def _duration(movie: _Movie, longest: Fraction) -> Fraction:
    """Give the seconds the film lasts; of a fragmented one `mvhd` may count only the beginning."""
    if movie.fragment_duration:
        return Fraction(movie.fragment_duration, movie.timescale)
    stated = Fraction(movie.duration, movie.timescale)
    return max(stated, longest) if movie.fragmented or not stated else stated


def _expect_seconds(duration: Fraction, longest: Fraction) -> None:
    """A film that states less than its samples last is as long for a decoder as they are."""
    if duration < MIN_SECONDS or max(duration, longest) > MAX_SECONDS:
        found = float(duration if duration < MIN_SECONDS else max(duration, longest))
        raise not_our_film(
            f"the film lasts {found:.9g} s, which is not between {MIN_SECONDS} s and "
            f"{MAX_SECONDS // 3600} h"
        )
