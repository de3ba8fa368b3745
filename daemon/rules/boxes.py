"""Read the boxes of an ISO base media file (ISO/IEC 14496-12, section 4.2).

Rule: any bytes give boxes or `Spoiled`, and the work has a ceiling whatever the sizes claim. Box
headers are read one by one where they lie, so memory holds tables and nothing else.
"""

import struct
import sys
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final, Literal

from daemon.rules.failure import Reason, Spoiled

# Twenty minutes in fragments of one second, each of some 14 boxes. An ordinary film has a hundred.
MAX_BOXES: Final = 20_000
# Six hours at 30 frames a second in the widest tables, which are those of fragments.
MAX_TABLE_BYTES: Final = 16 * 2**20

FILE: Final = b"file"
"""The parent of the boxes that lie in no other."""

_PIECE_BYTES: Final = 2**20
_SHORT_HEADER_BYTES: Final = 8
_LONG_HEADER_BYTES: Final = 16
_OPEN_SIZE: Final = 0  # the box reaches to the end of the file
_LONG_SIZE: Final = 1  # the size follows in 64 bits


@dataclass(frozen=True, slots=True)
class Box:
    """Where a box lies in the file, in bytes; `open_ended` when it states no size of its own."""

    kind: bytes
    start: int
    body: int
    end: int
    open_ended: bool = False

    @property
    def name(self) -> str:
        """The four characters of its type."""
        return self.kind.decode("ascii", "backslashreplace")

    @property
    def size_bytes(self) -> int:
        """Header and body together."""
        return self.end - self.start


def truncated(message: str) -> Spoiled:
    """Build the failure that says: the end of the film is missing."""
    return Spoiled(Reason.TRUNCATED, message)


def damaged(message: str) -> Spoiled:
    """Build the failure that says: the bytes contradict themselves."""
    return Spoiled(Reason.DAMAGED, message)


def not_our_film(message: str) -> Spoiled:
    """Build the failure that says: the file is sound perhaps, but no film that we accept."""
    return Spoiled(Reason.NOT_A_VIDEO, message)


def find(boxes: list[Box], kind: bytes) -> Box | None:
    """Give the first box of `kind`, if there is one."""
    return next((box for box in boxes if box.kind == kind), None)


def require(boxes: list[Box], kind: bytes, parent: str) -> Box:
    """Give the first box of `kind`; the standard wants one in `parent`."""
    box = find(boxes, kind)
    if box is None:
        raise damaged(f"the {parent} box has no {kind.decode()} box in it")
    return box


class BoxReader:
    """An open file of `size_bytes`, read by boxes; counts the work and stops when it is absurd.

    Every list of boxes goes through `expect`, with the type of the box that they lie in, before it
    is given. Every method raises `Spoiled` for what the bytes do wrong, and `OSError` when the disk
    fails.
    """

    def __init__(
        self,
        file: BinaryIO,
        size_bytes: int,
        expect: Callable[[list[Box], bytes], None] = lambda _boxes, _parent: None,
    ) -> None:
        self.size_bytes = size_bytes
        self._file = file
        self._expect = expect
        self._boxes_left = MAX_BOXES
        self._table_bytes_left = MAX_TABLE_BYTES

    def read(self, start: int, count: int) -> bytes:
        """Give exactly `count` bytes from `start`."""
        self._file.seek(start)
        data = self._file.read(count)
        if len(data) != count:
            raise truncated(f"the file is shorter than the {self.size_bytes} bytes it should have")
        return data

    def top_level(self) -> list[Box]:
        """List the boxes of the file; what is left after the last one is too short for a box."""
        boxes = []
        for box in self._tiles(0, self.size_bytes):
            if box.end > self.size_bytes:
                raise truncated(
                    f"the {box.name} box reaches to byte {box.end}, "
                    f"the file ends at {self.size_bytes}"
                )
            boxes.append(box)
        self._expect(boxes, FILE)
        return boxes

    def children(self, parent: Box, skip: int = 0, *, any_kind: bool = False) -> list[Box]:
        """List the boxes inside `parent`, after `skip` bytes of fields; they tile it exactly.

        With `any_kind` their types need not be printable: those of old codecs are not.
        """
        boxes = []
        end = parent.body + skip
        for box in self._tiles(end, parent.end, any_kind=any_kind):
            if box.open_ended or box.end > parent.end:
                raise damaged(f"the {box.name} box does not fit into its {parent.name} box")
            boxes.append(box)
            end = box.end
        if end != parent.end:
            raise damaged(f"the {parent.name} box is not filled by the boxes in it")
        self._expect(boxes, parent.kind)
        return boxes

    def loose_children(self, parent: Box, skip: int = 0) -> list[Box]:
        """List what FFmpeg would find inside `parent`, after `skip` bytes of fields.

        It takes any type, cuts off what sticks out, and stops where a size is too small: writers
        are careless about the ends of user data and sample entries.
        """
        boxes = []
        start = parent.body + skip
        while (room := parent.end - start) >= _SHORT_HEADER_BYTES:
            head = self.read(start, min(room, _LONG_HEADER_BYTES))
            size, kind = struct.unpack_from(">I4s", head)
            header, rest = _SHORT_HEADER_BYTES, _OPEN_SIZE
            if size == _LONG_SIZE and len(head) == _LONG_HEADER_BYTES:
                (size,) = struct.unpack_from(">q", head, _SHORT_HEADER_BYTES)
                header, rest = _LONG_HEADER_BYTES, _SHORT_HEADER_BYTES
            if size == rest:
                size = room
            if size < header:
                break
            self._count_box()
            box = Box(kind, start, start + header, start + min(size, room))
            boxes.append(box)
            start = box.end
        self._expect(boxes, parent.kind)
        return boxes

    def fields(self, box: Box, layout: str, at: int = 0) -> tuple[int, ...]:
        """Unpack the whole numbers of a `struct` layout, `at` bytes into the body of `box`."""
        count = struct.calcsize(layout)
        if box.body + at + count > box.end:
            raise damaged(f"the {box.name} box is too short for its fields")
        return struct.unpack(layout, self.read(box.body + at, count))

    def table(
        self, box: Box, code: Literal["B", "H", "I", "Q"], at: int, count: int
    ) -> "array[int]":
        """Read `count` unsigned numbers of `array` type `code`, `at` bytes into the body."""
        numbers = array(code)
        left = count * numbers.itemsize
        start = box.body + at
        if start + left > box.end:
            raise damaged(f"the {box.name} box is too short for {count} entries")
        self.allow_table(left)
        while left:
            piece = min(left, _PIECE_BYTES)
            numbers.frombytes(self.read(start, piece))
            start += piece
            left -= piece
        if sys.byteorder == "little":  # pragma: no branch
            numbers.byteswap()
        return numbers

    def allow_table(self, size_bytes: int) -> None:
        """Count what a table takes in memory, or give up."""
        self._table_bytes_left -= size_bytes
        if self._table_bytes_left < 0:
            raise not_our_film(f"the tables have more than {MAX_TABLE_BYTES} bytes")

    def _count_box(self) -> None:
        self._boxes_left -= 1
        if self._boxes_left < 0:
            raise not_our_film(f"the file has more than {MAX_BOXES} boxes, too many for a film")

    def _tiles(self, start: int, limit: int, *, any_kind: bool = False) -> Iterator[Box]:
        """Walk box after box until fewer bytes are left before `limit` than a header has."""
        while (box := self._box_at(start, limit, any_kind=any_kind)) is not None:
            self._count_box()
            yield box
            start = box.end

    def _box_at(self, start: int, limit: int, *, any_kind: bool) -> Box | None:
        head = self.read(start, min(limit - start, _LONG_HEADER_BYTES)) if start < limit else b""
        if len(head) < _SHORT_HEADER_BYTES:
            return None
        size, kind = struct.unpack_from(">I4s", head)
        if not (any_kind or (kind.isascii() and kind.decode().isprintable())):
            raise damaged(f"at byte {start} stands no box")
        header = _SHORT_HEADER_BYTES
        if size == _OPEN_SIZE:
            return Box(kind, start, start + header, limit, open_ended=True)
        if size == _LONG_SIZE:
            header = _LONG_HEADER_BYTES
            if len(head) < header:
                return None
            (size,) = struct.unpack_from(">Q", head, _SHORT_HEADER_BYTES)
        if size < header:
            raise damaged(f"the box at byte {start} says it has {size} bytes")
        return Box(kind, start, start + header, start + size)
