"""The box reader tiles files and boxes exactly, and gives up on absurd work."""

import io
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.rules.boxes import MAX_BOXES, MAX_TABLE_BYTES, Box, BoxReader, find, require
from daemon.rules.failure import Reason, Spoiled


def box(kind: bytes, body: bytes = b"", *, size: int | None = None) -> bytes:
    """Build a box, and lie about its size when told to."""
    return struct.pack(">I4s", 8 + len(body) if size is None else size, kind) + body


def large_box(kind: bytes, body: bytes = b"", *, size: int | None = None) -> bytes:
    """Build a box with a size of 64 bits, and lie about it when told to."""
    size = 16 + len(body) if size is None else size
    return struct.pack(">I4sQ", 1, kind, size) + body


def read(data: bytes) -> BoxReader:
    """Open bytes that are in memory."""
    return BoxReader(io.BytesIO(data), len(data))


def parent_of(data: bytes) -> tuple[BoxReader, Box]:
    """Put the bytes into a box with something behind it, and open both."""
    reader = read(box(b"moov", data) + box(b"free", bytes(64)))
    return reader, reader.top_level()[0]


bodies = st.binary(max_size=30)


@given(st.lists(st.tuples(st.sampled_from([box, large_box]), bodies)))
def test_boxes_lie_where_they_were_put(
    parts: list[tuple[Callable[[bytes, bytes], bytes], bytes]],
) -> None:
    """Start, body and end of each box are found, with sizes of 32 and of 64 bits."""
    data = b""
    expected = []
    for number, (build, body) in enumerate(parts):
        kind = b"%04d" % number
        start = len(data)
        data += build(kind, body)
        expected.append((kind, start, len(data) - len(body), len(data)))
    found = [(each.kind, each.start, each.body, each.end) for each in read(data).top_level()]
    assert found == expected
    reader, parent = parent_of(data)
    assert [(each.kind, each.end - 8) for each in reader.children(parent)] == [
        (kind, end) for kind, _, _, end in expected
    ]


@given(st.binary(max_size=60))
def test_any_bytes_are_boxes_or_spoiled(data: bytes) -> None:
    """No bytes raise anything else, in a file or inside a box."""
    try:
        boxes = read(data).top_level()
    except Spoiled:
        return
    assert len(data) - (boxes[-1].end if boxes else 0) < 16


@pytest.mark.parametrize(
    "bad",
    [box(b"free", size=2), box(b"free", bytes(8), size=7), large_box(b"free", size=15)],
)
def test_a_size_holds_its_own_header(bad: bytes) -> None:
    """A box smaller than its header is damage: the walk would never get past it."""
    with pytest.raises(Spoiled, match=r"says it has \d+ bytes") as caught:
        read(bad).top_level()
    assert caught.value.reason is Reason.DAMAGED


@pytest.mark.parametrize("cut", [box(b"free", size=9), large_box(b"free", size=2**64 - 1)])
def test_a_box_past_the_end_means_a_cut(cut: bytes) -> None:
    """A box that needs more bytes than the file has shows that the end is missing."""
    with pytest.raises(Spoiled, match="the free box reaches") as caught:
        read(box(b"ftyp") + cut).top_level()
    assert caught.value.reason is Reason.TRUNCATED


def test_half_a_header_is_left_over() -> None:
    """What is too short for a header is not listed, so that the caller sees it is left."""
    for header in (box(b"free"), large_box(b"free")):
        for length in range(len(header)):
            assert [each.kind for each in read(box(b"ftyp") + header[:length]).top_level()] == [
                b"ftyp"
            ]


@pytest.mark.parametrize("kind", [b"mo\0v", bytes(4), b"a\x1fbc", b"abc\x7f", b"\xa9nam"])
def test_a_type_is_printable(kind: bytes) -> None:
    """Bytes that no writer would call a type are damage, not a box."""
    with pytest.raises(Spoiled, match="stands no box") as caught:
        read(box(kind, bytes(8))).top_level()
    assert caught.value.reason is Reason.DAMAGED


def test_size_zero_reaches_to_the_end_of_the_file() -> None:
    """The last box of a file may state no size."""
    last = read(box(b"ftyp") + box(b"mdat", bytes(30), size=0)).top_level()[-1]
    assert (last.name, last.start, last.end, last.open_ended) == ("mdat", 8, 46, True)
    assert (last.body, last.size_bytes) == (16, 38)


@pytest.mark.parametrize(
    "children",
    [
        box(b"free", size=0),
        box(b"free", bytes(8), size=17),
        large_box(b"free", size=17),
        box(b"free")[:7],
        large_box(b"free")[:15],
        box(b"free") + bytes(4),
    ],
)
def test_boxes_fill_the_box_around_them(children: bytes) -> None:
    """Inside a box nothing is left over, nothing sticks out, and every size is stated."""
    reader, parent = parent_of(children)
    with pytest.raises(Spoiled, match="moov box") as caught:
        reader.children(parent)
    assert caught.value.reason is Reason.DAMAGED


def test_children_may_follow_fields() -> None:
    """Fields before the boxes are skipped, and a box too short for them is damaged."""
    reader, parent = parent_of(bytes(8) + box(b"avc1"))
    assert [child.kind for child in reader.children(parent, skip=8)] == [b"avc1"]
    with pytest.raises(Spoiled, match="not filled"):
        reader.children(parent, skip=20)


def test_the_first_of_a_kind_is_found() -> None:
    """Of two boxes of one kind the first counts; a box that is required and missing is named."""
    boxes = read(box(b"free") + box(b"trak", b"1") + box(b"trak", b"22")).top_level()
    assert find(boxes, b"trak") == require(boxes, b"trak", "moov") == boxes[1]
    assert find(boxes, b"udta") is None
    with pytest.raises(Spoiled, match="the moov box has no mvhd box") as caught:
        require(boxes, b"mvhd", "moov")
    assert caught.value.reason is Reason.DAMAGED


def test_fields_stay_inside_their_box() -> None:
    """Numbers are read from the body, and never from what follows it."""
    reader, parent = parent_of(b"\0\0\0\1\0\2")
    assert reader.fields(parent, ">IH") == (1, 2)
    assert reader.fields(parent, ">H", 4) == (2,)
    with pytest.raises(Spoiled, match="too short") as caught:
        reader.fields(parent, ">H", 5)
    assert caught.value.reason is Reason.DAMAGED


def test_tables_stay_inside_their_box() -> None:
    """Numbers of each width are read, most significant byte first, and only from the body."""
    reader, parent = parent_of(b"\xff" + bytes(range(1, 17)))
    assert list(reader.table(parent, "B", 1, 3)) == [1, 2, 3]
    assert list(reader.table(parent, "H", 1, 2)) == [0x0102, 0x0304]
    assert list(reader.table(parent, "I", 1, 2)) == [0x01020304, 0x05060708]
    assert list(reader.table(parent, "Q", 1, 2)) == [0x0102030405060708, 0x090A0B0C0D0E0F10]
    with pytest.raises(Spoiled, match="too short for 5 entries") as caught:
        reader.table(parent, "I", 1, 5)
    assert caught.value.reason is Reason.DAMAGED


def test_a_long_table_arrives_whole() -> None:
    """A table is read in pieces, in order, with nothing between them."""
    count = 300_000
    reader, parent = parent_of(struct.pack(f">{count}I", *range(count)))
    assert list(reader.table(parent, "I", 0, count)) == list(range(count))


def test_a_file_shorter_than_its_size_is_cut() -> None:
    """When the disk holds fewer bytes than were recorded, that is a verdict and no crash."""
    with pytest.raises(Spoiled, match="shorter than the 30 bytes") as caught:
        BoxReader(io.BytesIO(box(b"ftyp")), 30).top_level()
    assert caught.value.reason is Reason.TRUNCATED


def test_the_number_of_boxes_is_bounded() -> None:
    """A file of nothing but headers is given up, one at the limit is not."""
    assert len(read(box(b"free") * MAX_BOXES).top_level()) == MAX_BOXES
    with pytest.raises(Spoiled, match=f"more than {MAX_BOXES} boxes") as caught:
        read(box(b"free") * (MAX_BOXES + 1)).top_level()
    assert caught.value.reason is Reason.NOT_A_VIDEO


def test_the_bytes_of_all_tables_are_bounded(tmp_path: Path) -> None:
    """All tables of a file share one allowance, whatever they claim, and little more memory."""
    path = tmp_path / "sparse.mp4"
    with path.open("w+b") as file:
        file.write(box(b"stsz", size=2**31))
        file.truncate(2**31)
        reader = BoxReader(file, 2**31)
        (table,) = reader.top_level()
        tracemalloc.start()
        try:
            assert len(reader.table(table, "I", 0, MAX_TABLE_BYTES // 4)) == MAX_TABLE_BYTES // 4
            with pytest.raises(Spoiled, match="tables have more") as caught:
                reader.table(table, "B", 0, 1)
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert caught.value.reason is Reason.NOT_A_VIDEO
    assert peak_bytes < 1.5 * MAX_TABLE_BYTES
