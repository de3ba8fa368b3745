"""Each rule of the box walk, on films of a few hundred bytes built by hand."""

import io
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.rules.failure import Reason, Spoiled
from daemon.rules.mp4 import MAX_MOOV_BYTES, MAX_TRACKS, Film, begins_as_film, inspect
from tests.rules.boxed import (
    ALL_ONES,
    AVC1,
    DATA,
    FILM,
    FTYP,
    MDAT,
    MDHD,
    MOOV,
    MVHD,
    NO_SAMPLES,
    STTS,
    TALL,
    TKHD,
    VIDEO,
    WIDE,
    box,
    hdlr,
    judge,
    large_box,
    lasting,
    refusal,
    sound,
    stsd,
    tables,
    trak,
    u16,
    u32,
    u64,
)


def test_the_film_built_here_is_whole() -> None:
    """The film that the other tests break says what was put into it."""
    assert judge(FILM) == Film(2.0, WIDE, TALL, "avc1", None, None, "moov_last")


# What is no film at all


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "empty"),
        (b"ok", "begins with b'ok'"),
        (b"<!DOCTYPE html><html>", "HTML"),
        (b"\xef\xbb\xbf\r\n <HTML>", "HTML"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied", "XML"),
        (b'{"code": 404}', "JSON"),
        (b"[]", "JSON"),
        (b"#EXTM3U\n#EXT-X-VERSION:3", "playlist"),
        (b"\x89PNG\r\n\x1a\n", "begins with"),
        (box("styp", b"msdh\0\0\0\0") + FILM, "styp"),
        (box("free") + FILM, "free"),
        (FILM[16:], "mdat"),
    ],
)
def test_the_first_box_is_ftyp(body: bytes, word: str) -> None:
    """Whatever else a host sends in place of a film is named in plain words."""
    reason, message = refusal(body)
    assert reason is Reason.NOT_A_VIDEO
    assert word in message


def test_the_beginning_is_judged_as_it_comes() -> None:
    """A download may stop at the first bytes that rule a film out, and not before."""
    assert all(begins_as_film(FTYP[:length]) for length in range(len(FTYP)))
    assert not begins_as_film(b"<html>")
    assert not begins_as_film(b"\0\0\0\x10free")


@pytest.mark.parametrize("tracks", [b"", sound(44_100)])
def test_a_film_has_pictures(tracks: bytes) -> None:
    """A file with sound alone, or with no track, is whole and still not what was paid for."""
    reason, message = refusal(FTYP + MDAT + box("moov", MVHD, tracks))
    assert reason is Reason.NOT_A_VIDEO
    assert "no video track" in message


# How boxes tile the file


@pytest.mark.parametrize("missing", ["moov", "mdat"])
def test_both_halves_are_there(missing: str) -> None:
    """Tables without samples, or samples without tables, are a file that was cut between boxes."""
    reason, message = refusal(FTYP + (MDAT if missing == "moov" else MOOV))
    assert reason is Reason.TRUNCATED
    assert missing in message


def test_sizes_of_64_bits() -> None:
    """A box may state its size in 64 bits, and its body begins behind them."""
    moved = box("moov", MVHD, trak(tables(DATA + 8)))
    assert judge(FTYP + large_box("mdat", bytes(40)) + moved).duration_seconds == 2.0
    reason, _ = refusal(FTYP + large_box("mdat", bytes(40)) + MOOV)
    assert reason is Reason.DAMAGED


@pytest.mark.parametrize("left", [1, 7, 15])
def test_half_a_header_is_no_box(left: int) -> None:
    """Bytes too few for a header are damage behind a film, and a cut in front of its end."""
    reason, message = refusal(FILM + large_box("free")[:left])
    assert (reason, message) == (
        Reason.DAMAGED,
        f"the {left} bytes after the last box are no box",
    )
    assert refusal(FTYP + MDAT + large_box("moov")[:left])[0] is Reason.TRUNCATED


@pytest.mark.parametrize("kind", ["free", "skip", "wxyz"])
def test_the_last_box_may_reach_to_the_end(kind: str) -> None:
    """Size 0 means: up to the end of the file; that takes nothing from a film that is whole."""
    assert judge(FILM + box(kind, bytes(9), size=0)) == judge(FILM)


def test_tables_state_their_size() -> None:
    """A `moov` box of size 0 could be cut between two tracks, so it proves nothing."""
    reason, message = refusal(FTYP + MDAT + box("moov", MVHD, VIDEO, size=0))
    assert reason is Reason.TRUNCATED
    assert "moov" in message


def test_the_work_is_bounded_by_tracks() -> None:
    """Eight tracks are enough for a film."""
    assert judge(FTYP + MDAT + box("moov", MVHD, VIDEO * MAX_TRACKS)) == judge(FILM)
    reason, message = refusal(FTYP + MDAT + box("moov", MVHD, VIDEO * (MAX_TRACKS + 1)))
    assert (reason, message) == (Reason.NOT_A_VIDEO, "the film has 9 tracks, more than 8")


def inspect_sparse(path: Path, *parts: bytes | int) -> Film:
    """Inspect a real file in which each number stands for so many zero bytes, never written."""
    with path.open("w+b") as file:
        for part in parts:
            if isinstance(part, int):
                file.seek(part, io.SEEK_CUR)
            else:
                file.write(part)
        return inspect(file, file.tell())


def test_the_work_is_bounded_by_the_moov_box(tmp_path: Path) -> None:
    """A `moov` box of 64 MiB is opened, a larger one is not."""
    room = MAX_MOOV_BYTES - len(MOOV)
    for extra, accepted in ((0, True), (1, False)):
        free = box("free", size=room + extra)
        moov = box("moov", MVHD, VIDEO, free, size=MAX_MOOV_BYTES + extra)
        parts = (FTYP, MDAT, moov, room + extra - 8 - 1, b"\0")
        if accepted:
            assert inspect_sparse(tmp_path / "film.mp4", *parts) == judge(FILM)
        else:
            with pytest.raises(Spoiled, match="moov box has 67108865 bytes"):
                inspect_sparse(tmp_path / "film.mp4", *parts)


# What the tables must say


@pytest.mark.parametrize(
    "missing",
    "mvhd tkhd mdia mdhd hdlr minf stbl stsd stts stsz stsc stco".split(),  # noqa: SIM905
)
def test_no_part_is_missing(missing: str) -> None:
    """A film without one of the boxes that describe it is damaged, by name."""
    reason, message = refusal(FILM.replace(missing.encode(), b"free", 1))
    assert reason is Reason.DAMAGED
    assert missing in message


@pytest.mark.parametrize("part", [MVHD, TKHD, MDHD, hdlr("vide"), STTS])
def test_no_header_is_too_short(part: bytes) -> None:
    """A box that ends before its fields do is damaged."""
    short = box(part[4:8].decode(), b"\0\0\0\0")
    padded = short + box("free", bytes(len(part) - len(short) - 8))
    assert "too short" in refusal(FILM.replace(part, padded))[1]


@pytest.mark.parametrize("header", [MVHD, MDHD])
def test_time_has_units(header: bytes) -> None:
    """A timescale of 0 would divide by nothing."""
    zero = header[:20] + u32(0) + header[24:]
    assert refusal(FILM.replace(header, zero))[0] is Reason.DAMAGED


def test_headers_of_version_1() -> None:
    """Headers with times of 64 bits give the same film."""
    mvhd = box("mvhd", u32(1 << 24), u64(0, 0), u32(1000), u64(2000), bytes(80))
    tkhd = box("tkhd", u32(1 << 24), u64(0, 0), u32(1, 0), u64(0), bytes(52), u16(WIDE, 0, TALL, 0))
    mdhd = box("mdhd", u32(1 << 24), u64(0, 0), u32(100), u64(200), u32(0))
    video = trak(tables(), tkhd=tkhd, mdhd=mdhd, description=stsd(AVC1))
    assert judge(FTYP + MDAT + box("moov", mvhd, video)) == judge(FILM)
    # The track id, too: here a fragment of 2 samples without bytes is a third of the duration.
    trex = box("trex", u32(0, 1, 1, 50, 0, 0))
    moof = box("moof", box("traf", box("tfhd", u32(0, 1)), box("trun", u32(0, 2))))
    moov = box("moov", mvhd, video, box("mvex", box("mehd", u32(0, 3000)), trex))
    assert judge(FTYP + MDAT + moov + moof).duration_seconds == 3.0


@pytest.mark.parametrize(
    "mvhd",
    [
        box("mvhd", u32(0, 0, 0, 1000, 0), bytes(80)),
        box("mvhd", u32(0, 0, 0, 1000, ALL_ONES), bytes(80)),
        box("mvhd", u32(1 << 24), u64(0, 0), u32(1000), u64(2**64 - 1), bytes(80)),
    ],
)
def test_an_unknown_duration_is_counted(mvhd: bytes) -> None:
    """When the movie does not say how long it is, its samples do: here 4 of half a second."""
    assert judge(FTYP + MDAT + box("moov", mvhd, VIDEO)).duration_seconds == 2.0


def test_a_film_lasts_a_while() -> None:
    """Less than a second is no music video, nor is what tells no duration; six hours are enough."""
    timeless = FILM.replace(MVHD, lasting(0)).replace(STTS, box("stts", u32(0, 1, 4, 0)))
    assert refusal(timeless)[0] is Reason.NOT_A_VIDEO
    assert judge(FILM.replace(MVHD, lasting(1000))).duration_seconds == 1.0
    assert "lasts 0.999 s" in refusal(FILM.replace(MVHD, lasting(999)))[1]
    hours = 6 * 3_600_000
    assert judge(FILM.replace(MVHD, lasting(hours))).duration_seconds == 21_600.0
    reason, message = refusal(FILM.replace(MVHD, lasting(hours + 1)))
    assert (reason, message) == (
        Reason.NOT_A_VIDEO,
        "the film lasts 21600.001 s, which is not between 1 s and 6 h",
    )


def test_a_film_lasts_as_long_as_its_samples() -> None:
    """A film that says two seconds and holds seven hours keeps a decoder busy for seven hours."""
    long = FILM.replace(STTS, box("stts", u32(0, 1, 4, 630_000)))
    assert "lasts 25200 s" in refusal(long)[1]


def test_dimensions_come_from_the_track_or_the_codec() -> None:
    """The track header has the first word, the sample entry the second."""
    bare = box("tkhd", u32(0, 0, 0, 1, 0, 2000), bytes(60))
    shown = bare[:-8] + u16(640, 0, 360, 0)
    assert judge(FILM.replace(TKHD, shown)) == replace(judge(FILM), width=640, height=360)
    for unknown in (bare, bare[:-8] + u16(640, 0, 0, 0), bare[:-8] + u16(0, 0, 360, 0)):
        assert judge(FILM.replace(TKHD, unknown)) == judge(FILM)


def test_the_codec_is_named() -> None:
    """A track of pictures without a sample entry cannot be played."""
    moov = box("moov", MVHD, trak(tables(), description=stsd()))
    assert refusal(FTYP + MDAT + moov) == (Reason.DAMAGED, "the stsd box names no codec")


@pytest.mark.parametrize(("field", "rate"), [(44_100, 44_100), (0, 96_000), (1, 96_000)])
def test_the_sample_rate_may_not_fit_its_field(field: int, rate: int) -> None:
    """A rate beyond 16 bits is read from the timescale."""
    mdhd = box("mdhd", u32(0, 0, 0, 96_000, 0, 0))
    film = judge(FTYP + MDAT + box("moov", MVHD, sound(field, mdhd), VIDEO))
    assert (film.audio_codec, film.audio_sample_rate) == ("mp4a", rate)


def test_other_tracks_are_let_be() -> None:
    """Subtitles, chapters and timecodes are part of a film, and say nothing of its pictures."""
    for kind in ("text", "tx3g", "tmcd"):
        text = trak(NO_SAMPLES, handler=hdlr("text"), description=stsd(box(kind, bytes(8))))
        assert judge(FTYP + MDAT + box("moov", MVHD, text, VIDEO)) == judge(FILM)


# A mdat box that states no size


def open_ended(data_bytes: int) -> bytes:
    """Build a film of 40 bytes of samples whose last box, the mdat, reaches to the end."""
    start = len(FTYP + MOOV) + 8
    moov = box("moov", MVHD, trak(tables(start)))
    return FTYP + moov + box("mdat", bytes(data_bytes), size=0)


def test_an_open_mdat_ends_with_its_samples() -> None:
    """The sample tables prove its end: it is whole when they need its last byte, and no more."""
    assert judge(open_ended(40)) == replace(judge(FILM), layout="faststart")
    assert refusal(open_ended(41))[0] is Reason.DAMAGED
    for length in range(40):
        assert refusal(open_ended(length))[0] is Reason.TRUNCATED


def test_a_film_has_samples() -> None:
    """Boxes without a single sample are no film, however well they fit."""
    reason, message = refusal(FTYP + MDAT + box("moov", MVHD, trak(NO_SAMPLES)))
    assert (reason, message) == (Reason.DAMAGED, "the film has no samples")


# A movie that announces fragments

MFRA = box("mfra", box("mfro", u32(0, 24)))


def announcing(*mvex: bytes) -> bytes:
    """Build a film that could go on in fragments behind what its tables hold."""
    return FTYP + MDAT + box("moov", MVHD, VIDEO, box("mvex", *mvex))


def test_fragments_that_were_announced_may_be_missing() -> None:
    """A file cut before its first fragment would pass for a short film, were it not marked."""
    assert refusal(announcing())[0] is Reason.TRUNCATED
    assert judge(announcing() + MFRA) == replace(judge(FILM), layout="fragmented")


def test_samples_before_the_fragments_count() -> None:
    """The samples in the tables are a part of the duration that proves the end."""
    assert judge(announcing(box("mehd", u32(0, 2000)))).duration_seconds == 2.0
    assert refusal(announcing(box("mehd", u32(0, 2001))))[0] is Reason.TRUNCATED


def test_a_fragment_states_its_size() -> None:
    """A `moof` box of size 0 could be cut between two track fragments."""
    reason, message = refusal(announcing(box("mehd", u32(0, 2000))) + box("moof", size=0))
    assert reason is Reason.TRUNCATED
    assert "moof" in message
