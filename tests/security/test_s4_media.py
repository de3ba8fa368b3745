"""S4-01: what is no ordinary film is refused by its boxes alone, before a decoder sees the file."""

import struct
import sys
import time
import tracemalloc
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.rules.boxes import MAX_BOXES, MAX_TABLE_BYTES
from daemon.rules.failure import Reason, Spoiled
from daemon.rules.mp4 import MAX_MOOV_BYTES, MAX_TRACKS, Film
from daemon.rules.places import HOMES, NOWHERE
from tests.rules.boxed import (
    DATA,
    FILM,
    FTYP,
    MOOV,
    MVHD,
    NO_SAMPLES,
    STTS,
    TKHD,
    VIDEO,
    box,
    described,
    esds,
    film,
    hdlr,
    judge,
    kept_in,
    large_box,
    lasting,
    pictures,
    refusal,
    sound,
    stsd,
    tables,
    trak,
    u16,
    u32,
    u64,
    voice,
)

CLIPS = [
    (resources.files("daemon") / "clips" / f"{name}.mp4").read_bytes()
    for name in ("faststart", "moov_last", "fragmented")
]
PLAYLIST = b"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:1,\nfile:///etc/passwd\n"
ODD_CODECS = (
    *("mjpg", "jpeg", "mp4v", "M8RG", "M8YA", "M8G0", "apcn", "raw ", "png ", "rle ", "FFV1"),
    *("dvh1", "vp08", "s263"),
)
REFUSED = (
    *("rmra", "rmda", "cmov", "hoov"),
    *("sinf", "schm", "schi", "tenc", "senc", "saiz", "saio", "pssh"),
    *("iloc", "iinf", "infe", "iprp", "wfex", "iacb"),
)
MASQUERADES = {
    "HLS playlist": PLAYLIST,
    "playlist behind ftyp": FTYP + PLAYLIST,
    "DASH manifest": b'<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011">',
    "bare DASH manifest behind ftyp": FTYP + b'<MPD xmlns="urn:mpeg:dash:schema:mpd:2011"></MPD>',
    "ffconcat list": b"ffconcat version 1.0\nfile '/etc/passwd'\n",
    "ffconcat list behind ftyp": FTYP + b"ffconcat version 1.0\nfile '/etc/passwd'\n",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="/etc/passwd"/></svg>',
    "SVG behind ftyp": FTYP + b'<svg xmlns="http://www.w3.org/2000/svg"></svg>',
    "HTML": b"<!DOCTYPE html><html><body>404</body></html>",
    "JSON": b'{"code": 404, "msg": "not found"}',
    "JPEG": b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01" + bytes(40),
    "AVI": b"RIFF\x40\x00\x00\x00AVI LIST" + bytes(40),
    "Matroska": b"\x1aE\xdf\xa3\xa3B\x86\x81\x01B\xf7\x81\x01" + bytes(40),
    "ZIP": b"PK\x03\x04\x14\x00\x00\x00" + bytes(40),
    "ELF": b"\x7fELF\x02\x01\x01" + bytes(40),
    **{f"{codec} in MP4": described(pictures(codec)) for codec in ODD_CODECS},
}


def refuse(data: bytes, words: str) -> None:
    """Expect that the bytes are refused as no video, and why."""
    reason, message = refusal(data)
    assert reason is Reason.NOT_A_VIDEO
    assert words in message


def test_s4_01_ordinary_films_pass() -> None:
    """The three real clips, and the film that is broken below, are accepted."""
    assert {judge(clip).video_codec for clip in [*CLIPS, FILM]} == {"avc1"}


@pytest.mark.parametrize("name", MASQUERADES)
def test_s4_01_masquerades(name: str) -> None:
    """Whatever is only called a film is refused, as no video."""
    assert refusal(MASQUERADES[name])[0] is Reason.NOT_A_VIDEO


def test_s4_01_first_box_is_ftyp() -> None:
    """Every other beginning is refused, even in front of a film."""
    refuse(box("free") + FILM, "no MP4 film")
    refuse(FILM[len(FTYP) :], "no MP4 film")


def test_s4_01_sizes_fit_the_file() -> None:
    """No size, of 32 bits or of 64, leads out of the file or of the box around it."""
    for stray in (box("free", size=9), large_box("free", size=2**63), large_box("free", size=17)):
        assert refusal(FILM + stray)[0] is Reason.TRUNCATED
        assert refusal(film(stray))[0] is Reason.DAMAGED
    assert refusal(FILM + large_box("free", size=15))[0] is Reason.DAMAGED


def test_s4_01_depth() -> None:
    """Boxes nested deeper than ten are refused or never opened; none of them overflows a stack."""
    for kind, passes in (("udta", False), ("meta", False), ("moov", False), ("free", True)):
        nest = b""
        for _ in range(10_000):
            nest = box(kind, nest)
        if passes:
            assert judge(film(nest)) == judge(FILM)
        else:
            assert refusal(film(nest))[0] is Reason.NOT_A_VIDEO


def test_s4_01_number_of_boxes() -> None:
    """A file of little else than box headers is given up, at the top and in user data."""
    assert MAX_BOXES == 20_000
    refuse(FILM + box("free") * MAX_BOXES, "more than 20000 boxes")
    refuse(film(box("udta", box("name") * MAX_BOXES)), "more than 20000 boxes")


def test_s4_01_twenty_minutes_in_fragments_pass() -> None:
    """A film in 1,200 fragments of two tracks, with the boxes that FFmpeg writes, is accepted."""
    count = 1200
    run = box("tfhd", u32(0, 1)) + box("tfdt", u32(0, 0)) + box("trun", u32(0, 2))
    moof = box("moof", box("mfhd", u32(0, 1)), box("traf", run) * 2) + box("mdat", bytes(8))
    trex = box("trex", u32(0, 1, 1, 50, 0, 0))
    start = film(box("mvex", box("mehd", u32(0, 2000 + 2000 * count)), trex))
    assert judge(start + moof * count).duration_seconds == 2 + 2 * count


def test_s4_01_size_of_moov() -> None:
    """More than 64 MiB of tables are not opened."""
    assert MAX_MOOV_BYTES == 64 * 2**20
    refuse(film(box("free", bytes(MAX_MOOV_BYTES))), "moov box has")


def test_s4_01_number_of_tracks() -> None:
    """Eight tracks are enough for any film."""
    assert MAX_TRACKS == 8
    assert judge(film(VIDEO * 7)) == judge(FILM)
    refuse(film(VIDEO * 8), "9 tracks")


@pytest.mark.parametrize("handler", ["vide", "soun", "text", "tmcd", "auxv", "hint"])
@pytest.mark.parametrize("kind", ["M8RG", "mjpg", "encv", "enca", "ac-3", "mp4s", "rtp "])
def test_s4_01_codecs(handler: str, kind: str) -> None:
    """Another codec is refused in every track, for the handler says nothing to a decoder."""
    refuse(described(box(kind, bytes(90)), kind=handler), f"coded as {kind}")
    passing = voice() if handler == "soun" else pictures()
    refuse(described(passing, box(kind, bytes(90)), kind=handler), f"coded as {kind}")


def test_s4_01_entries_beyond_the_count() -> None:
    """An entry that the table does not count is not overlooked."""
    hidden = box("stsd", u32(0, 1), pictures(), pictures("M8RG"))
    refuse(film(trak(NO_SAMPLES, description=hidden)), "counts 1 entries and has 2")


def test_s4_01_codec_of_the_other_kind() -> None:
    """Pictures in a track of sound, and sound in one of pictures, are refused."""
    refuse(described(pictures(), kind="soun"), "a track of sound is coded as avc1")
    refuse(described(voice()), "a track of pictures is coded as mp4a")


@pytest.mark.parametrize("kind", ["tmcd", "text", "tx3g"])
def test_s4_01_texts_pass(kind: str) -> None:
    """Timecodes and chapters, which no decoder is given, are part of harmless films."""
    assert judge(described(box(kind, bytes(18)), kind="text")) == judge(FILM)


@pytest.mark.parametrize("inside", [0x6C, 0x6D, 0x20, 0xDD])
def test_s4_01_codecs_inside_an_entry(inside: int) -> None:
    """Descriptors in an entry choose the decoder too: a JPEG may call itself avc1, or mp4a."""
    refuse(described(pictures("avc1", esds(inside))), "esds")
    refuse(described(voice(esds(inside)), kind="soun"), f"object type {inside:#x}")
    refuse(film(box("udta", esds(inside))), "esds")


@pytest.mark.parametrize("home", ["moov", "trak"])
@pytest.mark.parametrize("kind", REFUSED)
def test_s4_01_encryption_references_and_compression(kind: str, home: str) -> None:
    """Encrypted films, those that lead elsewhere and those with a hidden header are refused."""
    stray = box(kind, bytes(16))
    refuse(film(stray) if home == "moov" else film(track=box("trak", VIDEO[8:], stray)), "stands")
    refuse(FILM + stray, f"the box {kind} stands in the file")
    refuse(FILM + box("udta", stray), f"the box {kind} stands in the udta")
    refuse(described(pictures("avc1", stray)), f"the box {kind} stands in the avc1")
    refuse(described(voice(stray), kind="soun"), f"the box {kind} stands in the mp4a")


def test_s4_01_boxes_that_a_decoder_finds_elsewhere() -> None:
    """A second sample description, or a track outside the header, is not left to the decoder."""
    odd = box("minf", box("stbl", stsd(pictures("M8RG")), NO_SAMPLES))
    mdia = box("mdia", box("mdhd", u32(0, 0, 0, 100, 200, 0)), hdlr("vide"), odd)
    refuse(film(track=box("trak", VIDEO[8:], mdia)), "2 boxes mdia")
    refuse(FILM + box("trak", TKHD, mdia), "the box trak stands in the file")
    refuse(film(box("udta", stsd(pictures("M8RG")))), "the box stsd stands in the udta")


@pytest.mark.parametrize(
    "place",
    [
        box("url ", u32(0), b"http://127.0.0.1/\0"),
        box("url ", u32(1), b"file:///etc/passwd\0"),
        box("url ", u32(0)),
        box("urn ", u32(0), b"name\0location\0"),
        box("alis", u32(1)),
        box("alis", u32(0), bytes(160)),
        box("rsrc", u32(0), bytes(20)),
        box("imdt", u32(1)),
    ],
)
def test_s4_01_samples_in_other_files(place: bytes) -> None:
    """A film that takes its samples from elsewhere is refused, whichever entry says so."""
    own = box("url ", u32(1))
    assert judge(kept_in(own)) == judge(FILM)
    refuse(kept_in(place), "samples are said to lie")
    refuse(kept_in(own, place), "samples are said to lie")


@pytest.mark.parametrize("side", [0, 1, 15, 8193, 65535])
def test_s4_01_dimensions(side: int) -> None:
    """Sides from 16 to 8192 pixels, in the sample entry and in the track header where stated."""
    for size in ((side, 720), (720, side)):
        refuse(described(pictures(size=size)), f"has {side} pixels")
        refuse(described(pictures(size=size), kind="auxv"), f"has {side} pixels")
        shown = film(track=trak(tables(), tkhd=TKHD[:-8] + u16(size[0], 0, size[1], 0)))
        if side:
            refuse(shown, f"has {side} pixels")
        else:
            assert judge(shown) == judge(FILM)


@pytest.mark.parametrize(("milliseconds", "passes"), [(999, 0), (1000, 1), (21_600_000, 1)])
def test_s4_01_duration(milliseconds: int, passes: int) -> None:
    """A film lasts from one second to six hours."""
    data = FILM.replace(MVHD, lasting(milliseconds))
    if passes:
        assert judge(data).duration_seconds == milliseconds / 1000
    else:
        refuse(data, "lasts")
    refuse(FILM.replace(MVHD, lasting(21_600_001)), "lasts")


def test_s4_01_mdat() -> None:
    """Without samples, or with samples beyond the end, a file is a film cut short."""
    for data in (FTYP + MOOV, FTYP + box("mdat", bytes(40), size=4000) + MOOV):
        assert refusal(data)[0] is Reason.TRUNCATED
    assert refusal(film(track=trak(tables(100_000))))[0] is Reason.TRUNCATED
    assert refusal(film(track=trak(tables(DATA + 1))))[0] is Reason.DAMAGED


# Any bytes give a verdict, in little time and memory


def heavy(*table: bytes) -> bytes:
    """Build a film with these tables."""
    return film(track=trak(STTS + b"".join(table)))


def heaviest() -> dict[str, bytes]:
    """Build the films that cost the walk most, as far as its limits let them."""
    room = MAX_TABLE_BYTES - 64
    places, runs, halves = room // 4, room // 16, room // 3 * 2
    each = box("stsc", u32(0, 1, 1, 1, 1))
    starts = u32(DATA)
    counted = struct.pack(f">{3 * runs}I", *(n for run in range(runs) for n in (run + 1, 1, 1)))
    return {
        "chunks": heavy(
            box("stsz", u32(0, 1, places)), each, box("stco", u32(0, places), starts * places)
        ),
        "runs of chunks": heavy(
            box("stsz", u32(0, 1, runs)),
            box("stsc", u32(0, runs), counted),
            box("stco", u32(0, runs), starts * runs),
        ),
        "sizes": heavy(
            box("stsz", u32(0, 0, places), bytes(4 * places)),
            box("stsc", u32(0, 1, 1, places, 1)),
            box("stco", u32(0, 1), starts),
        ),
        "sizes of four bits": heavy(
            box("stz2", u32(0, 4, halves), bytes(halves // 2)),
            box("stsc", u32(0, 1, 1, halves, 1)),
            box("stco", u32(0, 1), starts),
        ),
        "boxes": film(box("udta", box("name") * (MAX_BOXES - 100))),
    }


def verdict(data: bytes) -> Film | Reason:
    """Judge bytes; whatever is raised but `Spoiled` is raised here too."""
    try:
        return judge(data)
    except Spoiled as spoiled:
        return spoiled.reason


def seconds_of(data: bytes) -> float:
    """Measure the work of a verdict, without that of whoever watches which lines are run."""
    tracer = sys.gettrace()
    sys.settrace(None)
    try:
        started = time.process_time()
        verdict(data)
        return time.process_time() - started
    finally:
        sys.settrace(tracer)


def test_s4_01_time_and_memory() -> None:
    """Less than a second of work and 50 MB, whatever a file claims."""
    for name, data in heaviest().items():
        # Samples without bytes are no film, and that is seen when all is read.
        assert verdict(data) == (Reason.DAMAGED if "sizes" in name else judge(FILM)), name
        assert any(seconds_of(data) < 1 for _ in range(3)), name
        if "chunks" in name:
            continue  # they take 34 MB, but to watch them takes longer than to read them
        tracemalloc.start()
        try:
            verdict(data)
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak_bytes < 50_000_000, name


@given(
    st.sampled_from(CLIPS),
    st.lists(st.tuples(st.integers(0, 2**16), st.integers(1, 255)), min_size=1, max_size=8),
)
def test_s4_01_flipped_bytes(clip: bytes, flips: list[tuple[int, int]]) -> None:
    """Real films with bytes flipped anywhere are accepted or refused, and nothing else."""
    data = bytearray(clip)
    for at, flip in flips:
        data[at % len(data)] ^= flip
    found = verdict(bytes(data))
    assert isinstance(found, Film | Reason)


KINDS = [kind.decode() for kind in [*HOMES, *NOWHERE, b"avc1", b"mp4a", b"url ", b"free", b"data"]]
NUMBERS = st.one_of(st.sampled_from([0, 1, 2, 8, 16, 2**31, 2**32 - 1]), st.integers(0, 2**32 - 1))
LEAVES = st.one_of(
    st.binary(max_size=40),
    st.lists(NUMBERS, max_size=8).map(lambda numbers: u32(*numbers)),
    st.sampled_from([MVHD, TKHD, STTS, VIDEO, sound(1), pictures(), voice(), esds(0x40)]),
)


def nested(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Put bytes into boxes, with fields before them, and with sizes that may lie."""
    whole = st.builds(
        lambda kind, fields, parts: box(kind, fields, *parts),
        st.sampled_from(KINDS),
        st.sampled_from([b"", b"", u32(0), u32(0, 1), u32(0, 2), bytes(28), bytes(78)]),
        st.lists(inner, max_size=4),
    )
    lying = st.builds(lambda data, size: u32(size) + data[4:], whole, NUMBERS)
    long = st.builds(
        lambda data, size: u32(1) + data[4:8] + u64(size) + data[8:],
        whole,
        st.one_of(st.integers(0, 100), st.just(2**63), st.just(2**64 - 1)),
    )
    return st.one_of(whole, whole, whole, lying, long)


TREES = st.recursive(LEAVES, nested, max_leaves=12)


@given(TREES, st.sampled_from(["moov", "trak", "udta", "entry", "file", "only"]))
def test_s4_01_crafted_trees(tree: bytes, place: str) -> None:
    """Boxes of every kind inside one another, alone or in a film, are judged without a crash."""
    data = {
        "moov": film(tree),
        "trak": film(track=box("trak", VIDEO[8:], tree)),
        "udta": film(box("udta", tree)),
        "entry": described(pictures("avc1", tree)),
        "file": FILM + tree,
        "only": FTYP + tree,
    }[place]
    assert isinstance(verdict(data), Film | Reason)
