"""No box that a decoder obeys stands where the walk does not look."""

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.rules.boxes import FILE, BoxReader
from daemon.rules.failure import Reason, Spoiled
from daemon.rules.places import HOMES, NOWHERE, ONCE
from tests.rules.boxed import (
    AVC1,
    FILM,
    MDHD,
    MVHD,
    NO_SAMPLES,
    TKHD,
    VIDEO,
    box,
    described,
    esds,
    film,
    hdlr,
    judge,
    pictures,
    refusal,
    stsd,
    tables,
    u32,
    voice,
)

META = bytes(4) + hdlr("mdir")


def placed(parent: str, stray: bytes) -> bytes:  # noqa: PLR0911 - one line a place
    """Build a film with one more box in one of the boxes that a decoder opens."""
    stbl = box("stbl", stsd(AVC1), tables(), stray if parent == "stbl" else b"")
    minf = box("minf", stbl, stray if parent == "minf" else b"")
    mdia = box("mdia", MDHD, hdlr("vide"), minf, stray if parent == "mdia" else b"")
    track = box("trak", TKHD, mdia, stray if parent == "trak" else b"")
    match parent:
        case "file":
            return FILM + stray
        case "udta" | "edts" | "tref":
            inside = box(parent, stray)
            home = film(inside) if parent == "udta" else film(track=VIDEO)
            if parent == "udta":
                return home
            return film(track=box("trak", TKHD, mdia, inside))
        case "meta":
            return film(box("udta", box("meta", META, stray)))
        case "ilst":
            return film(box("meta", META[4:], box("ilst", stray)))
        case "avc1":
            return described(pictures("avc1", stray))
        case "mp4a":
            return described(voice(stray), kind="soun")
        case "wave":
            return described(voice(box("wave", stray)), kind="soun")
        case _:
            return film(*([stray] if parent == "moov" else []), track=track)


PLACES = (
    *("file", "moov", "trak", "mdia", "minf", "stbl"),
    *("udta", "edts", "tref", "meta", "ilst", "avc1", "mp4a", "wave"),
)


@pytest.mark.parametrize("parent", PLACES)
def test_unknown_boxes_are_let_be(parent: str) -> None:
    """What no decoder knows stands anywhere, and what is in it is nobody's business."""
    deep = box("stsd", bytes(3))
    for _ in range(50):
        deep = box("wxyz", deep)
    assert judge(placed(parent, deep)).video_codec == "avc1"


@pytest.mark.parametrize("parent", PLACES)
@pytest.mark.parametrize("kind", sorted(NOWHERE))
def test_some_boxes_stand_nowhere(kind: bytes, parent: str) -> None:
    """Wherever a decoder would find one of them, the film is refused for it."""
    reason, message = refusal(placed(parent, box(kind.decode(), bytes(8))))
    assert reason is Reason.NOT_A_VIDEO
    assert message == f"the box {kind.decode()} stands in the {parent}: {NOWHERE[kind]}"


@pytest.mark.parametrize("parent", PLACES)
@pytest.mark.parametrize("kind", sorted(HOMES))
def test_every_box_has_its_home(kind: bytes, parent: str) -> None:
    """A box that means something to a decoder is refused where the standard has none."""
    if parent.encode() in HOMES[kind]:
        return
    reason, message = refusal(placed(parent, box(kind.decode(), bytes(8))))
    assert reason is Reason.NOT_A_VIDEO
    assert message == f"the box {kind.decode()} stands in the {parent}, where it has no place"


def test_the_homes_bound_the_depth() -> None:
    """No way through the homes is longer than nine boxes, and none leads in a circle."""

    def depth(kind: bytes, below: frozenset[bytes]) -> int:
        assert kind not in below
        if kind == FILE:
            return 0
        homes = HOMES.get(kind) or {b"stsd"}  # what has no home here is a sample entry
        return 1 + max(depth(home, below | {kind}) for home in homes)

    assert max(depth(kind, frozenset()) for kind in HOMES) == 9


@pytest.mark.parametrize(
    ("parent", "part"),
    [
        ("moov", MVHD),
        ("trak", TKHD),
        ("mdia", MDHD),
        ("mdia", hdlr("vide")),
        ("mdia", box("minf", box("stbl", stsd(pictures("jpeg")), NO_SAMPLES))),
        ("minf", box("stbl", stsd(pictures("jpeg")), NO_SAMPLES)),
        ("stbl", stsd(pictures("jpeg"))),
        ("stbl", box("stco", u32(0, 0))),
    ],
)
def test_one_of_each_is_enough(parent: str, part: bytes) -> None:
    """Of two boxes of one kind a decoder may take the other one."""
    kind = part[4:8].decode()
    assert part[4:8] in ONCE
    assert refusal(placed(parent, part)) == (
        Reason.NOT_A_VIDEO,
        f"the {parent} has 2 boxes {kind}, not one",
    )


@pytest.mark.parametrize("kind", ["trak", "stsd", "esds", "sinf", "udta"])
def test_fragments_hide_nothing(kind: str) -> None:
    """Fragments are opened, so the same holds for what is in them."""
    for moof in (
        box("moof", box(kind)),
        box("moof", box("traf", box("tfhd", u32(0, 1)), box(kind))),
    ):
        mvex = box("mvex", box("mehd", u32(0, 2000)), box("trex", u32(0, 1, 1, 50, 0, 0)))
        reason, message = refusal(film(mvex) + moof)
        assert reason is Reason.NOT_A_VIDEO
        assert f"the box {kind} stands in the" in message


@pytest.mark.parametrize("fields", [b"", bytes(4)])
def test_a_meta_box_has_two_forms(fields: bytes) -> None:
    """With four bytes before its boxes, as the standard has it, or without, as QuickTime has it."""
    inside = fields + hdlr("mdta")
    assert judge(film(box("meta", inside))) == judge(FILM)
    assert "wfex" in refusal(film(box("meta", inside, box("wfex"))))[1]


def test_a_meta_box_begins_with_its_handler() -> None:
    """FFmpeg looks for it further on; such a box is refused, and one without anything passes."""
    odd = box("meta", bytes(4), box("free"), hdlr("mdta"))
    assert refusal(film(odd)) == (
        Reason.NOT_A_VIDEO,
        "a meta box does not begin with its hdlr box, so nothing says how to read it",
    )
    for length in (0, 4, 8):
        assert judge(film(box("meta", bytes(length)))) == judge(FILM)


# What careless writers leave behind


@pytest.mark.parametrize(
    "end",
    [
        bytes(4),
        bytes(8),
        b"\0\0\0\x04abcd",
        b"\0\0\0\xffabcd",
        b"\xa9nam",
        b"\0\0\0\x0c\xa9namabcd",
    ],
)
def test_user_data_may_end_anyhow(end: bytes) -> None:
    """Zeros, types that are not ASCII and sizes that stick out are cut off, and found before."""
    assert judge(film(box("udta", end))) == judge(FILM)
    assert "stands in the udta" in refusal(film(box("udta", esds(0x6C), end)))[1]


def test_sizes_mean_what_they_mean_to_a_decoder() -> None:
    """A size of 0, in 32 or in 64 bits, goes to the end, as a size too large does."""
    for size in (0, 8, 200):
        for long in (True, False):
            head = (
                struct.pack(">I4sQ", 1, b"wave", size)
                if long
                else struct.pack(">I4s", size, b"wave")
            )
            inside = head + box("sinf", bytes(12))
            verdicts = [refused(voice(inside)), refused(voice(box("free") + inside))]
            # Inside the box or behind it, the next one is found; a 64-bit size of 0 ends the list.
            assert verdicts == [size != 0 or not long] * 2, (size, long)


def refused(entry: bytes) -> bool:
    """Tell whether a film with this sample entry of sound is refused for what is in it."""
    try:
        judge(described(entry, kind="soun"))
    except Spoiled as spoiled:
        return "sinf" in spoiled.message
    return False


@given(st.binary(max_size=60))
def test_any_bytes_inside_a_box_end(data: bytes) -> None:
    """The loose walk stays inside its box, moves on, and raises nothing."""
    content = box("udta", data) + box("free", bytes(64))
    reader = BoxReader(io.BytesIO(content), len(content))
    parent, _ = reader.top_level()
    found = reader.loose_children(parent)
    starts = [each.start for each in found]
    assert starts == sorted(set(starts))
    assert all(8 <= each.start < each.body <= each.end <= parent.end for each in found)
