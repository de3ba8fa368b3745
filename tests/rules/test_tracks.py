"""Tracks are judged by their sample entries, all of them, as a decoder would read them."""

import pytest

from daemon.rules.failure import Reason
from daemon.rules.tracks import SOUND_CODECS, TEXT_CODECS, VIDEO_CODECS
from tests.rules.boxed import (
    FILM,
    MDHD,
    NO_SAMPLES,
    TKHD,
    box,
    described,
    esds,
    film,
    hdlr,
    judge,
    kept_in,
    pictures,
    refusal,
    stsd,
    tables,
    trak,
    u32,
    voice,
)

OWN = box("url ", u32(1))


@pytest.mark.parametrize("codec", sorted(VIDEO_CODECS))
def test_pictures_of_music_videos_pass(codec: bytes) -> None:
    """Each accepted codec is accepted for pictures, and refused for sound."""
    entry = pictures(codec.decode())
    assert judge(film(track=trak(tables(), description=stsd(entry)))).video_codec == codec.decode()
    assert judge(described(entry)) == judge(described(entry, kind="auxv")) == judge(FILM)
    assert f"sound is coded as {codec.decode()}" in refusal(described(entry, kind="soun"))[1]


@pytest.mark.parametrize("codec", sorted(SOUND_CODECS))
def test_sound_of_music_videos_passes(codec: bytes) -> None:
    """Each accepted codec is accepted for sound, and refused for pictures."""
    entry = voice(kind=codec.decode())
    assert judge(described(entry, kind="soun")).audio_codec == codec.decode()
    assert judge(described(entry, kind="wxyz")) == judge(FILM)
    assert f"pictures is coded as {codec.decode()}" in refusal(described(entry))[1]


@pytest.mark.parametrize("codec", sorted(TEXT_CODECS))
def test_text_is_neither(codec: bytes) -> None:
    """Texts and timecodes are no pictures and no sound, whatever the handler says."""
    for handler in ("vide", "soun"):
        assert refusal(described(box(codec.decode(), bytes(90)), kind=handler))[0] is (
            Reason.NOT_A_VIDEO
        )


def test_a_codec_without_a_printable_name_is_named() -> None:
    """Old sound formats put a number into the type, and are refused as what they are."""
    entry = box("ms\0\x55", bytes(28))
    assert refusal(described(entry, kind="soun")) == (
        Reason.NOT_A_VIDEO,
        "a track of sound is coded as ms\0U, none of Opus, mp4a",
    )
    assert r"coded as \xa9abc" in refusal(described(entry.replace(b"ms\0\x55", b"\xa9abc")))[1]


@pytest.mark.parametrize("count", [0, 1, 3, 2**32 - 1])
def test_entries_are_counted(count: int) -> None:
    """A decoder that counts and one that reads on would see different entries."""
    two = box("stsd", u32(0, count), pictures() * 2)
    reason, message = refusal(film(trak(NO_SAMPLES, description=two)))
    assert (reason, message) == (
        Reason.NOT_A_VIDEO,
        f"the stsd box counts {count} entries and has 2",
    )


def test_a_new_table_of_entries_is_refused() -> None:
    """In version 1 the entries of sound are laid out otherwise, and FFmpeg may not see it."""
    newer = box("stsd", u32(1 << 24, 1), voice())
    reason, message = refusal(film(trak(NO_SAMPLES, handler=hdlr("soun"), description=newer)))
    assert reason is Reason.NOT_A_VIDEO
    assert "version 1" in message


@pytest.mark.parametrize("side", [16, 8192])
def test_sizes_at_the_limit_pass(side: int) -> None:
    """The smallest and the largest side are accepted."""
    assert judge(described(pictures(size=(side, side)))) == judge(FILM)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_palette_would_hide_boxes(depth: int) -> None:
    """A table of colours stands where this walk looks for boxes."""
    entry = bytearray(pictures())
    entry[8 + 75] = depth
    assert "palette" in refusal(described(bytes(entry)))[1]
    entry[8 + 75] = 24
    assert judge(described(bytes(entry))) == judge(FILM)


@pytest.mark.parametrize(
    "entry",
    [pictures()[:-1], voice()[:-1], box("mp4a"), box("avc1")],
)
def test_no_entry_is_too_short(entry: bytes) -> None:
    """A sample entry that ends before its fields do is damaged."""
    kind = "vide" if b"avc1" in entry else "soun"
    short = len(entry).to_bytes(4) + entry[4:]
    assert refusal(described(short, kind=kind))[0] is Reason.DAMAGED


# What the descriptors of sound say


@pytest.mark.parametrize("version", [0, 1, 2])
def test_the_descriptors_are_found(version: int) -> None:
    """In each version of an entry, in the entry itself or in QuickTime's `wave` box."""
    for build in (esds, lambda codec: box("wave", box("frma", b"mp4a"), esds(codec), bytes(8))):
        assert judge(described(voice(build(0x40), version=version), kind="soun")).audio_codec
        reason, message = refusal(described(voice(build(0x6C), version=version), kind="soun"))
        assert reason is Reason.NOT_A_VIDEO
        assert "object type 0x6c" in message


def test_an_unknown_version_is_refused() -> None:
    """Nobody knows where the boxes of such an entry begin."""
    assert "version 3" in refusal(described(voice(version=3), kind="soun"))[1]


@pytest.mark.parametrize("codec", range(256))
def test_few_codecs_are_called_mp4a(codec: int) -> None:
    """AAC and MP3 pass, pictures and all the rest do not."""
    data = described(voice(esds(codec)), kind="soun")
    if codec in {0x40, 0x66, 0x67, 0x68, 0x69, 0x6B}:
        assert judge(data).audio_codec == "mp4a"
    else:
        assert refusal(data)[0] is Reason.NOT_A_VIDEO


@pytest.mark.parametrize(
    ("flags", "more"),
    [
        (0, b""),
        (0x80, bytes(2)),
        (0x40, b"\x03abc"),
        (0x20, bytes(2)),
        (0xE0, b"\0\0\x03abc\0\0"),
    ],
)
@pytest.mark.parametrize("size", [b"\x7f", b"\x80\x01", b"\x80\x80\x80\x01", b"\xff" * 4])
def test_descriptors_of_every_form_are_read(flags: int, more: bytes, size: bytes) -> None:
    """Sizes have one to four bytes, and three fields may stand before the codec."""
    begin = bytes(4) + b"\x03" + size + b"\0\1" + bytes([flags]) + more
    for codec, passes in ((0x40, True), (0x6D, False)):
        data = described(voice(box("esds", begin, b"\x04", size, bytes([codec]))), kind="soun")
        if passes:
            assert judge(data).audio_codec == "mp4a"
        else:
            assert "0x6d" in refusal(data)[1]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (bytes(4) + b"\x04\x11\x40", Reason.NOT_A_VIDEO),
        (bytes(4) + b"\x03\x19\0\1\0\x05\x11\x40", Reason.NOT_A_VIDEO),
        (bytes(4) + b"\x03\x19\0\1\0\x04\x11", Reason.DAMAGED),
        (bytes(4) + b"\x03\x19\0\1\x40\xff\x04\x11\x40", Reason.DAMAGED),
        (bytes(4) + b"\x03\x80", Reason.DAMAGED),
        (b"", Reason.DAMAGED),
    ],
)
def test_other_descriptors_are_refused(data: bytes, reason: Reason) -> None:
    """A stream's descriptor comes first and its decoder's in it; neither may be cut short."""
    assert refusal(described(voice(box("esds", data)), kind="soun"))[0] is reason


# Where the samples are said to lie


@pytest.mark.parametrize("place", [OWN, OWN * 2, box("url ", u32(1), b"\0")])
def test_samples_lie_in_the_film(place: bytes) -> None:
    """An entry that says so passes, even with an empty location behind it."""
    entries = [place] if place.count(b"url ") == 1 else [OWN, OWN]
    assert judge(kept_in(*entries)) == judge(FILM)


def test_a_film_may_say_nothing_of_its_place() -> None:
    """Without a `dref` box there is no other file, and FFmpeg looks into this one."""
    stbl = box("stbl", stsd(pictures()), tables())
    mdia = box("mdia", MDHD, hdlr("vide"), box("minf", box("dinf"), stbl))
    assert judge(film(track=box("trak", TKHD, mdia))) == judge(FILM)


def test_places_are_counted() -> None:
    """Nor may an entry hide behind the number of them."""
    hidden = kept_in(OWN, OWN).replace(
        box("dref", u32(0, 2), OWN, OWN)[:16], b"\0\0\0\x28dref" + u32(0, 1)
    )
    assert refusal(hidden) == (Reason.NOT_A_VIDEO, "the dref box counts 1 entries and has 2")


# Who says what a track is


@pytest.mark.parametrize("handler", ["vide", "soun", "m1a ", "subp", "clcp"])
def test_one_handler_speaks_for_a_track(handler: str) -> None:
    """FFmpeg believes the last of them, wherever it stands; QuickTime has one for data besides."""
    for kind, passes in ((handler, False), ("url ", True)):
        aside = box("meta", bytes(4), hdlr(kind))
        minf = box("minf", hdlr(kind), box("stbl", stsd(pictures()), tables()))
        plain = box("minf", box("stbl", stsd(pictures()), tables()))
        tracks = (
            box("trak", TKHD, box("mdia", MDHD, hdlr("vide"), minf)),
            box("trak", TKHD, aside, box("mdia", MDHD, hdlr("vide"), plain)),
            box("trak", TKHD, box("mdia", MDHD, hdlr("vide"), box("udta", aside), plain)),
        )
        for track in tracks:
            if passes:
                assert judge(film(track=track)) == judge(FILM)
            else:
                assert (
                    f"a second hdlr box makes the track one of {handler}"
                    in (refusal(film(track=track))[1])
                )
