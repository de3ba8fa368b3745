"""Sample tables and runs lead to every byte of the samples, and to none outside a mdat box."""

import io
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.rules.boxes import MAX_TABLE_BYTES, BoxReader
from daemon.rules.failure import Reason, Spoiled
from daemon.rules.samples import (
    Defaults,
    MediaData,
    claim_fragment,
    claim_tables,
    table_duration,
)

DATA = 8  # where the samples begin: the file is one mdat box and what is under test


def box(kind: str, *parts: bytes) -> bytes:
    """Build a box."""
    body = b"".join(parts)
    return u32(8 + len(body)) + kind.encode() + body


def u32(*numbers: int) -> bytes:
    """Pack numbers of 32 bits."""
    return struct.pack(f">{len(numbers)}I", *numbers)


def stsz(*sizes: int) -> bytes:
    """Build a table of sizes."""
    return box("stsz", u32(0, 0, len(sizes), *sizes))


def equal(size: int, count: int) -> bytes:
    """Build the `stsz` box of samples that all have one size."""
    return box("stsz", u32(0, size, count))


def stz2(bits: int, count: int, table: bytes) -> bytes:
    """Build a compact table of sizes."""
    return box("stz2", u32(0, bits, count), table)


def stsc(*runs: tuple[int, int]) -> bytes:
    """Build the table of first chunks and the samples in each chunk from there on."""
    return box("stsc", u32(0, len(runs)), *(u32(first, count, 1) for first, count in runs))


def stco(*offsets: int) -> bytes:
    """Build the table of the places of chunks."""
    return box("stco", u32(0, len(offsets), *offsets))


def claim(data_bytes: int, *tables: bytes) -> int:
    """Claim tables over a mdat box with so many bytes of data; give the end of the samples."""
    mdat = box("mdat", bytes(data_bytes))
    # The tables come behind the mdat, so that a file cut inside it needs no others.
    content = mdat + box("stbl", *tables)
    reader = BoxReader(io.BytesIO(content), len(content))
    boxes = reader.top_level()
    media = MediaData(boxes[:1], len(content))
    claim_tables(reader, reader.children(boxes[1]), media)
    return media.end


def refused(data_bytes: int, *tables: bytes) -> tuple[Reason, str]:
    """Claim tables that must be refused; say why they were."""
    with pytest.raises(Spoiled) as caught:
        claim(data_bytes, *tables)
    return caught.value.reason, caught.value.message


@st.composite
def tracks(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """Draw the sizes of samples, and the number of samples in each chunk."""
    one_size = draw(st.one_of(st.none(), st.integers(1, 20)))
    chunks = draw(st.lists(st.integers(1, 4), min_size=1, max_size=8))
    count = sum(chunks)
    sizes = draw(st.lists(st.integers(0, 15), min_size=count, max_size=count))
    return ([one_size] * count if one_size else sizes), chunks


@given(tracks(), st.booleans(), st.sampled_from(["stsz", "4", "8", "16"]), st.booleans())
def test_every_chunk_is_claimed(
    track: tuple[list[int], list[int]],
    backwards: bool,  # noqa: FBT001
    form: str,
    large: bool,  # noqa: FBT001
) -> None:
    """However sizes and places are written, the last byte is needed, and no more than that."""
    sizes, chunks = track
    runs = [
        (number + 1, count)
        for number, count in enumerate(chunks)
        if number == 0 or chunks[number - 1] != count
    ]
    lengths, first = [], 0
    for count in chunks:
        lengths.append(sum(sizes[first : first + count]))
        first += count
    order = list(range(len(chunks)))
    offsets = [0] * len(chunks)
    at = DATA
    for number in reversed(order) if backwards else order:
        offsets[number] = at
        at += lengths[number]
    if sizes[0] and len(set(sizes)) == 1:
        table = equal(sizes[0], len(sizes))
    elif form == "4":
        digits = "".join(f"{size:x}" for size in sizes)
        table = stz2(4, len(sizes), bytes.fromhex(digits + "f" * (len(digits) % 2)))
    elif form == "8":
        table = stz2(8, len(sizes), bytes(sizes))
    elif form == "16":
        table = stz2(16, len(sizes), struct.pack(f">{len(sizes)}H", *sizes))
    else:
        table = stsz(*sizes)
    places = stco(*offsets)
    if large:
        places = box("co64", u32(0, len(offsets)), struct.pack(f">{len(offsets)}Q", *offsets))
    total = sum(sizes)
    assert claim(total, table, stsc(*runs), places) == (DATA + total if total else 0)
    if total:
        reason, message = refused(total - 1, table, stsc(*runs), places)
        assert reason is Reason.DAMAGED
        assert "do not lie in one mdat box" in message


def test_samples_beyond_the_file_mean_a_cut() -> None:
    """A chunk that would end behind the end of the file says that the end is missing."""
    reason, message = refused(40, equal(100, 4), stsc((1, 4)), stco(DATA))
    assert reason is Reason.TRUNCATED
    assert f"needs the bytes up to {DATA + 400}" in message


@pytest.mark.parametrize("start", [0, DATA - 1, DATA + 31])
def test_samples_outside_the_data_are_damage(start: int) -> None:
    """A chunk that begins before the data, or runs out of it into another box, is damage."""
    assert claim(40, equal(10, 1), stsc((1, 1)), stco(DATA + 30)) == DATA + 40
    reason, message = refused(40, equal(10, 1), stsc((1, 1)), stco(start))
    assert reason is Reason.DAMAGED
    assert f"at byte {start}" in message


def test_a_chunk_lies_in_one_of_the_mdat_boxes() -> None:
    """Samples may be spread over several boxes, in any order, but no chunk over two."""
    first, second = box("mdat", bytes(10)), box("mdat", bytes(20))
    tables = box("stbl", equal(5, 6), stsc((1, 2), (2, 4)), stco(18 + 8, 18 + 18))
    content = first + second + tables
    reader = BoxReader(io.BytesIO(content), len(content))
    *mdats, stbl = reader.top_level()
    media = MediaData(mdats, len(content))
    with pytest.raises(Spoiled, match="at byte 36 do not lie"):
        claim_tables(reader, reader.children(stbl), media)
    media = MediaData(mdats, len(content))
    media.claim([26, 8, 36, 0], [10, 10, 10, 0])
    assert media.end == 46
    with pytest.raises(Spoiled, match="at byte 13 do not lie"):
        media.claim([13], [10])


def test_a_last_chunk_may_be_short() -> None:
    """Chunks are taken as full, and the samples end where the sizes end."""
    for sizes in (equal(10, 5), stsz(10, 10, 10, 10, 10)):
        assert claim(50, sizes, stsc((1, 2)), stco(DATA, DATA + 20, DATA + 40)) == DATA + 50
        assert claim(50, sizes, stsc((1, 5), (2, 1)), stco(DATA, 0)) == DATA + 50
        assert claim(50, sizes, stsc((1, 5), (2, 2)), stco(DATA, 0)) == DATA + 50


@pytest.mark.parametrize("sizes", [equal(10, 5), stsz(10, 10, 10, 10, 10)])
def test_every_sample_lies_in_a_chunk(sizes: bytes) -> None:
    """Samples that no chunk holds could be anywhere: that is damage."""
    reason, message = refused(50, sizes, stsc((1, 4)), stco(DATA))
    assert (reason, message) == (Reason.DAMAGED, "only 4 of 5 samples lie in a chunk")
    assert refused(50, sizes, stsc(), stco())[1] == "only 0 of 5 samples lie in a chunk"


@pytest.mark.parametrize(
    "runs",
    [
        [],
        [(0, 1)],
        [(2, 2)],
        [(1, 1), (1, 1)],
        [(1, 1), (4, 1)],
        [(1, 1), (3, 1), (2, 1)],
        [(1, 0), (2, 2)],
    ],
)
def test_chunks_are_counted_in_order(runs: list[tuple[int, int]]) -> None:
    """Runs begin at chunk 1, go upwards, name chunks that exist, and none is empty."""
    reason, message = refused(40, equal(10, 2), stsc(*runs), stco(DATA, DATA, DATA))
    assert reason is Reason.DAMAGED
    assert "does not share 3 chunks" in message


def test_no_samples_need_no_chunks() -> None:
    """The tables of a film in fragments are empty."""
    assert claim(40, stsz(), stsc(), stco()) == 0
    assert claim(40, stsz(), stsc((1, 1)), stco()) == 0


@pytest.mark.parametrize("bits", [0, 5, 32])
def test_compact_sizes_have_known_widths(bits: int) -> None:
    """Sizes of a width that the standard does not know are not guessed."""
    assert refused(40, stz2(bits, 1, bytes(4)), stsc((1, 1)), stco(DATA)) == (
        Reason.DAMAGED,
        f"the stz2 box has numbers of {bits} bits",
    )


@pytest.mark.parametrize(
    "table",
    [
        box("stsz", u32(0, 0, 5), u32(10) * 4),
        stz2(16, 5, bytes(9)),
        stz2(8, 5, bytes(4)),
        stz2(4, 5, bytes(2)),
    ],
)
def test_tables_hold_what_they_count(table: bytes) -> None:
    """A table shorter than its count is damage."""
    assert "too short for" in refused(40, table, stsc((1, 5)), stco(DATA))[1]


def test_compact_sizes_count_as_what_they_take() -> None:
    """Sizes of four bits are spread to bytes, so a table too large for that is not read."""
    half = MAX_TABLE_BYTES // 2
    with pytest.raises(Spoiled, match="tables have more") as caught:
        claim(0, stz2(4, MAX_TABLE_BYTES, bytes(half)), stsc((1, 1)), stco(DATA))
    assert caught.value.reason is Reason.NOT_A_VIDEO


def test_durations_are_summed() -> None:
    """The time of the samples is their number times what each lasts, run by run."""
    content = box("stbl", box("stts", u32(0, 3, 3, 10, 1, 7, 2, 1)))
    reader = BoxReader(io.BytesIO(content), len(content))
    assert table_duration(reader, reader.children(reader.top_level()[0])) == 39


# Fragments

MOOF = 100  # where the moof box stands
ALL_ONES = 2**32 - 1


def tfhd(flags: int, *fields: bytes, track_id: int = 1) -> bytes:
    """Build the header of a track fragment."""
    return box("tfhd", u32(flags, track_id), *fields)


def trun(flags: int, count: int, *fields: int) -> bytes:
    """Build a run of samples."""
    return box("trun", u32(flags, count, *fields))


def traf(*parts: bytes) -> bytes:
    """Build a track fragment."""
    return box("traf", *parts)


def claim_moof(data_bytes: int, build: Callable[[int], list[bytes]]) -> dict[int, int]:
    """Claim a fragment that is made for the place of its data; all of it must be claimed.

    The place counts from the moof box. The runs fill the data, so they must lie exactly there.
    """
    place = len(box("moof", *build(0))) + 8
    moof = box("moof", *build(place))
    content = box("free", bytes(MOOF - 8)) + moof + box("mdat", bytes(data_bytes))
    reader = BoxReader(io.BytesIO(content), len(content))
    _, opened, mdat = reader.top_level()
    assert mdat.body == MOOF + place
    media = MediaData([mdat], len(content))
    durations = claim_fragment(reader, opened, {1: Defaults(3, 10), 2: Defaults(5, 20)}, media)
    assert media.end == mdat.end
    return durations


def test_a_run_counts_from_the_moof() -> None:
    """Without any base the data is counted from the moof box, and the defaults hold."""
    assert claim_moof(40, lambda at: [traf(tfhd(0), trun(0x1, 4, at))]) == {1: 12}


def test_other_boxes_in_a_fragment_are_let_be() -> None:
    """What is neither a track fragment nor a run says nothing of samples."""
    mfhd, tfdt = box("mfhd", u32(0, 1)), box("tfdt", u32(0, 0))
    assert claim_moof(10, lambda at: [mfhd, traf(tfhd(0), tfdt, trun(0x1, 1, at))]) == {1: 3}


def test_runs_follow_one_another() -> None:
    """A run without an offset begins where the one before it ended."""
    assert claim_moof(60, lambda at: [traf(tfhd(0), trun(0x1, 4, at), trun(0, 2))]) == {1: 18}


def test_the_next_track_follows_the_one_before() -> None:
    """A track fragment without any base begins where the data of the last one ended."""
    assert claim_moof(
        80,
        lambda at: [traf(tfhd(0), trun(0x1, 2, at)), traf(tfhd(0, track_id=2), trun(0x1, 3, 0))],
    ) == {1: 6, 2: 15}


def test_every_track_may_count_from_the_moof() -> None:
    """With the flag for it, each track fragment counts from the moof box."""
    flag = 0x020000
    assert claim_moof(
        80,
        lambda at: [
            traf(tfhd(flag), trun(0x1, 2, at)),
            traf(tfhd(flag, track_id=2), trun(0x1, 3, at + 20)),
        ],
    ) == {1: 6, 2: 15}


def test_a_base_may_be_stated() -> None:
    """A stated base is a place in the file, and offsets may be negative."""
    assert claim_moof(
        20, lambda at: [traf(tfhd(0x1, struct.pack(">Q", MOOF + at)), trun(0, 2))]
    ) == {1: 6}
    assert claim_moof(
        20,
        lambda at: [
            traf(tfhd(0x020001, struct.pack(">Q", MOOF + at + 7)), trun(0x1, 2, 2**32 - 7))
        ],
    ) == {1: 6}
    assert claim_moof(
        20, lambda at: [traf(tfhd(0x9, struct.pack(">QI", MOOF + at, 100)), trun(0, 2))]
    ) == {1: 200}


@pytest.mark.parametrize(
    ("flags", "fields", "size_bytes", "duration"),
    [
        (0x3A, (1, 100, 7, 0), 14, 200),
        (0x1A, (1, 100, 7), 14, 200),
        (0x18, (100, 7), 14, 200),
        (0x10, (7,), 14, 6),
        (0x08, (100,), 20, 200),
    ],
)
def test_a_track_fragment_has_its_own_defaults(
    flags: int, fields: tuple[int, ...], size_bytes: int, duration: int
) -> None:
    """Defaults of the fragment win over those of the track, whatever stands before them."""
    header = tfhd(flags, u32(*fields))
    assert claim_moof(size_bytes, lambda at: [traf(header, trun(0x1, 2, at))]) == {1: duration}


@pytest.mark.parametrize("mix", range(16))
def test_a_run_has_its_own_columns(mix: int) -> None:
    """Sizes and durations of a run win over the defaults, in every mix of columns."""
    columns = {0x100: (100, 200), 0x200: (7, 9), 0x400: (0, 0), 0x800: (0, 0)}
    chosen = [flag for number, flag in enumerate(columns) if mix & 1 << number]
    flags = 0x1 | 0x4 | sum(chosen)
    rows = [columns[flag][row] for row in (0, 1) for flag in chosen]
    size_bytes = 16 if 0x200 in chosen else 20
    duration = 300 if 0x100 in chosen else 6
    assert claim_moof(
        size_bytes, lambda at: [traf(tfhd(0), trun(flags, 2, at, ALL_ONES, *rows))]
    ) == {1: duration}


def test_a_fragment_needs_its_track() -> None:
    """A fragment of a track that the movie does not extend is damage."""
    with pytest.raises(Spoiled, match="track 3, which has no trex") as caught:
        claim_moof(10, lambda at: [traf(tfhd(0, track_id=3), trun(0x1, 1, at))])
    assert caught.value.reason is Reason.DAMAGED
    with pytest.raises(Spoiled, match="no tfhd box"):
        claim_moof(10, lambda at: [traf(trun(0x1, 1, at))])


def test_a_run_beyond_the_file_means_a_cut() -> None:
    """A fragment whose data is not all there was cut."""
    with pytest.raises(Spoiled, match="needs the bytes up to") as caught:
        claim_moof(39, lambda at: [traf(tfhd(0), trun(0x1, 4, at))])
    assert caught.value.reason is Reason.TRUNCATED


def test_a_run_outside_the_data_is_damage() -> None:
    """A fragment that takes its own tables for samples is damaged."""
    with pytest.raises(Spoiled, match="do not lie in one mdat") as caught:
        claim_moof(40, lambda at: [traf(tfhd(0), trun(0x1, 4, max(at, 1) - 1))])
    assert caught.value.reason is Reason.DAMAGED
