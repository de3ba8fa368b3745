"""Where the samples of a film lie: the tables of a `stbl` box and the runs of a `moof` box.

Rule: a sample lies inside the data of one `mdat` box. One beyond the end of the file proves that
the file was cut, one anywhere else that it is damaged. The samples themselves are never read.

ISO/IEC 14496-12, sections 8.6 (time), 8.7 (tables) and 8.8 (fragments).
"""

from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from operator import lt, mul, sub
from typing import Final

from daemon.rules.boxes import Box, BoxReader, damaged, find, require, truncated

_TFHD_BASE_DATA_OFFSET: Final = 0x000001
_TFHD_DESCRIPTION: Final = 0x000002
_TFHD_DURATION: Final = 0x000008
_TFHD_SIZE: Final = 0x000010
_TFHD_BASE_IS_MOOF: Final = 0x020000
_TRUN_DATA_OFFSET: Final = 0x000001
_TRUN_FIRST_FLAGS: Final = 0x000004
_TRUN_DURATION: Final = 0x000100
_TRUN_SIZE: Final = 0x000200
_TRUN_COLUMNS: Final = (_TRUN_DURATION, _TRUN_SIZE, 0x000400, 0x000800)

_HIGH_HALF: Final = bytes(byte >> 4 for byte in range(256))
_LOW_HALF: Final = bytes(byte & 15 for byte in range(256))


class MediaData:
    """The data of all `mdat` boxes; `end` is where the furthest sample claimed so far ends."""

    def __init__(self, mdats: list[Box], size_bytes: int) -> None:
        self.end = 0
        self._bodies = [mdat.body for mdat in mdats]
        self._ends = [mdat.end for mdat in mdats]
        self._size_bytes = size_bytes

    def claim(self, starts: Iterable[int], lengths: Iterable[int]) -> None:
        """Take so many bytes from each start on; the shorter of the two ends the list."""
        body = end = 0
        furthest = self.end
        for start, length in zip(starts, lengths, strict=False):
            stop = start + length
            if not length:
                continue
            if start < body or stop > end:
                body, end = self._mdat_around(start, stop)
            # There may be four million of them, and a call to max() takes as long as all the rest.
            if stop > furthest:  # noqa: PLR1730
                furthest = stop
        self.end = furthest

    def _mdat_around(self, start: int, stop: int) -> tuple[int, int]:
        if stop > self._size_bytes:
            raise truncated(
                f"the film needs the bytes up to {stop}, the file ends at {self._size_bytes}"
            )
        mdat = bisect_right(self._bodies, start) - 1
        if mdat < 0 or stop > self._ends[mdat]:
            raise damaged(f"the samples at byte {start} do not lie in one mdat box")
        return self._bodies[mdat], self._ends[mdat]


def claim_tables(reader: BoxReader, stbl: list[Box], media: MediaData) -> None:
    """Claim every chunk that the sample tables of one track describe."""
    sizes = _sizes(reader, stbl)
    offsets = _offsets(reader, stbl)
    if not (sizes.count or offsets):
        return
    chunks, samples = _chunk_runs(reader, stbl, len(offsets))
    in_chunks = sum(map(mul, chunks, samples))
    if in_chunks < sizes.count:
        raise damaged(f"only {in_chunks} of {sizes.count} samples lie in a chunk")
    media.claim(offsets, sizes.of_chunks(chunks, samples))


def table_duration(reader: BoxReader, stbl: list[Box]) -> int:
    """Sum the durations of the samples in the tables, in units of the track's timescale."""
    stts = require(stbl, b"stts", "stbl")
    _, count = reader.fields(stts, ">II")
    table = reader.table(stts, "I", 8, count * 2)
    return sum(samples * delta for samples, delta in zip(table[::2], table[1::2], strict=True))


@dataclass(frozen=True, slots=True)
class Defaults:
    """What holds for a sample when its run does not say; duration in the track's timescale."""

    duration: int
    size_bytes: int


def claim_fragment(
    reader: BoxReader, moof: Box, defaults: dict[int, Defaults], media: MediaData
) -> Counter[int]:
    """Claim every run of a fragment; `defaults` and the durations returned are by track id."""
    durations: Counter[int] = Counter()
    # A track fragment that names no base begins where the one before it ended, and the first one
    # at the moof box (section 8.8.7.1).
    end = moof.start
    for traf in reader.children(moof):
        if traf.kind != b"traf":
            continue
        parts = reader.children(traf)
        tfhd = require(parts, b"tfhd", "traf")
        flags, track_id = reader.fields(tfhd, ">II")
        if track_id not in defaults:
            raise damaged(f"a fragment belongs to track {track_id}, which has no trex box")
        base = moof.start if flags & _TFHD_BASE_IS_MOOF else end
        at = 8
        if flags & _TFHD_BASE_DATA_OFFSET:
            (base,) = reader.fields(tfhd, ">Q", at)
            at += 8
        if flags & _TFHD_DESCRIPTION:
            at += 4
        own = defaults[track_id]
        if flags & _TFHD_DURATION:
            own = Defaults(reader.fields(tfhd, ">I", at)[0], own.size_bytes)
            at += 4
        if flags & _TFHD_SIZE:
            own = Defaults(own.duration, reader.fields(tfhd, ">I", at)[0])
        end = base
        for trun in parts:
            if trun.kind == b"trun":
                run = _run(reader, trun, own)
                start = end if run.data_offset is None else base + run.data_offset
                media.claim((start,), (run.size_bytes,))
                end = start + run.size_bytes
                durations[track_id] += run.duration
    return durations


@dataclass(frozen=True, slots=True)
class _Run:
    """Samples of a fragment that lie together; `data_offset` counts from the fragment's base."""

    data_offset: int | None
    size_bytes: int
    duration: int


def _run(reader: BoxReader, trun: Box, defaults: Defaults) -> _Run:
    flags, count = reader.fields(trun, ">II")
    at = 8
    data_offset = None
    if flags & _TRUN_DATA_OFFSET:
        (data_offset,) = reader.fields(trun, ">i", at)
        at += 4
    if flags & _TRUN_FIRST_FLAGS:
        at += 4
    columns = [column for column in _TRUN_COLUMNS if flags & column]
    table = reader.table(trun, "I", at, count * len(columns))

    def total(column: int, default: int) -> int:
        if column in columns:
            return sum(table[columns.index(column) :: len(columns)])
        return count * default

    size_bytes = total(_TRUN_SIZE, defaults.size_bytes)
    return _Run(data_offset, size_bytes, total(_TRUN_DURATION, defaults.duration))


@dataclass(frozen=True, slots=True)
class _Sizes:
    """The sizes of all samples of a track: one for all of them, or else a table."""

    count: int
    fixed: int
    table: Sequence[int]

    def of_chunks(self, chunks: Iterable[int], samples: Iterable[int]) -> Iterator[int]:
        """Give the bytes of each chunk, by runs: so many chunks of so many samples each.

        It may end early: the chunks after the last sample hold nothing.
        """
        first = 0
        for chunk_count, sample_count in zip(chunks, samples, strict=True):
            after = first + chunk_count * sample_count
            if self.fixed and after <= self.count:
                yield from repeat(self.fixed * sample_count, chunk_count)
            elif self.fixed:
                whole, rest = divmod(max(0, min(after, self.count) - first), sample_count)
                yield from repeat(self.fixed * sample_count, whole)
                if rest:
                    yield self.fixed * rest
            elif sample_count == 1:
                yield from self.table[first:after]
            else:
                for at in range(first, min(after, self.count), sample_count):
                    yield sum(self.table[at : at + sample_count])
            first = after


def _sizes(reader: BoxReader, stbl: list[Box]) -> _Sizes:
    stz2 = find(stbl, b"stz2")
    if stz2 is None:
        stsz = require(stbl, b"stsz", "stbl")
        _, fixed, count = reader.fields(stsz, ">III")
        return _Sizes(count, fixed, reader.table(stsz, "I", 12, 0 if fixed else count))
    _, bits, count = reader.fields(stz2, ">I3xBI")
    match bits:
        case 16:
            return _Sizes(count, 0, reader.table(stz2, "H", 12, count))
        case 8:
            return _Sizes(count, 0, reader.table(stz2, "B", 12, count))
        case 4:
            reader.allow_table(count)
            pairs = reader.table(stz2, "B", 12, (count + 1) // 2).tobytes()
            halves = bytearray(2 * len(pairs))
            halves[::2] = pairs.translate(_HIGH_HALF)
            halves[1::2] = pairs.translate(_LOW_HALF)
            del halves[count:]
            return _Sizes(count, 0, halves)
        case _:
            raise damaged(f"the stz2 box has numbers of {bits} bits")


def _offsets(reader: BoxReader, stbl: list[Box]) -> "array[int]":
    """Read where each chunk begins, in bytes from the start of the file."""
    co64 = find(stbl, b"co64")
    if co64 is not None:
        return reader.table(co64, "Q", 8, reader.fields(co64, ">II")[1])
    stco = require(stbl, b"stco", "stbl")
    return reader.table(stco, "I", 8, reader.fields(stco, ">II")[1])


def _chunk_runs(
    reader: BoxReader, stbl: list[Box], chunk_count: int
) -> "tuple[array[int], array[int]]":
    """Read `stsc`: the number of chunks in each run, and of samples in each chunk of it."""
    stsc = require(stbl, b"stsc", "stbl")
    _, count = reader.fields(stsc, ">II")
    table = reader.table(stsc, "I", 8, count * 3)
    samples = table[1::3]
    starts = table[::3]
    starts.append(chunk_count + 1)
    if starts[0] != 1 or not all(map(lt, starts, starts[1:])) or 0 in samples:
        raise damaged(f"the stsc box does not share {chunk_count} chunks among its {count} entries")
    return array("I", map(sub, starts[1:], starts)), samples
