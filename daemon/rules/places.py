"""Which boxes may stand where in a film, and which may stand nowhere.

Rule: what a decoder would read is judged. FFmpeg's demuxer obeys every box that it knows wherever
it meets one, so a second sample description in the user data, or in a second `mdia` box, would
choose a decoder behind the back of a walk that looks only where the standard puts things. So each
such box has its homes, those of which one counts stand once, and whatever FFmpeg opens is opened
here too. Boxes that FFmpeg does not know either are let be, and never opened.

The homes also bound the depth: no more than nine boxes can lie inside one another.

Source: ISO/IEC 14496-12, and Apple's QuickTime File Format for `rmra`, `cmov` and `wave`.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Final

from daemon.rules.boxes import FILE, Box, BoxReader, not_our_film

_ENCRYPTED: Final = "encrypted films are not accepted"
_ELSEWHERE: Final = "films that lead to other films are not accepted"
_COMPRESSED: Final = "films with a hidden or compressed header are not accepted"
_PICTURES: Final = "still pictures in a film are not accepted"
_OTHER_CODEC: Final = "it would name a codec that no music video has"

NOWHERE: Final[Mapping[bytes, str]] = {
    b"rmra": _ELSEWHERE,
    b"rmda": _ELSEWHERE,
    b"cmov": _COMPRESSED,
    b"hoov": _COMPRESSED,
    b"sinf": _ENCRYPTED,
    b"schm": _ENCRYPTED,
    b"schi": _ENCRYPTED,
    b"tenc": _ENCRYPTED,
    b"senc": _ENCRYPTED,
    b"saiz": _ENCRYPTED,
    b"saio": _ENCRYPTED,
    b"pssh": _ENCRYPTED,
    b"iloc": _PICTURES,
    b"iinf": _PICTURES,
    b"infe": _PICTURES,
    b"iprp": _PICTURES,
    b"wfex": _OTHER_CODEC,
    b"iacb": _OTHER_CODEC,
}
"""What no film that we accept has, and why it is refused."""

HOMES: Final[Mapping[bytes, frozenset[bytes]]] = {
    **dict.fromkeys(b"ftyp moov moof mdat".split(), frozenset({FILE})),
    **dict.fromkeys(b"mvhd trak mvex".split(), frozenset({b"moov"})),
    **dict.fromkeys(b"tkhd mdia edts tref".split(), frozenset({b"trak"})),
    **dict.fromkeys(b"mdhd minf".split(), frozenset({b"mdia"})),
    **dict.fromkeys(b"stbl dinf".split(), frozenset({b"minf"})),
    **dict.fromkeys(b"stsd stts stsc stsz stz2 stco co64".split(), frozenset({b"stbl"})),
    **dict.fromkeys(b"trex mehd".split(), frozenset({b"mvex"})),
    **dict.fromkeys(b"tfhd trun".split(), frozenset({b"traf"})),
    b"traf": frozenset({b"moof"}),
    b"dref": frozenset({b"dinf"}),
    b"hdlr": frozenset({b"mdia", b"minf", b"meta"}),
    b"udta": frozenset({FILE, b"moov", b"trak", b"mdia"}),
    b"meta": frozenset({FILE, b"moov", b"trak", b"udta"}),
    b"ilst": frozenset({b"meta"}),
    b"wave": frozenset({b"mp4a"}),
    b"frma": frozenset({b"wave"}),
    b"esds": frozenset({b"mp4a", b"wave"}),
}
"""Where a box may stand that means something to a decoder."""

ONCE: Final = frozenset(
    b"mvhd mvex tkhd mdia mdhd hdlr minf dinf dref stbl stsd "
    b"stts stsc stsz stz2 stco co64 mehd tfhd".split()
)
"""Of what this walk takes the first and FFmpeg the last."""

# What FFmpeg opens, and this walk only to see what is in it.
_ASIDE: Final = frozenset(b"udta meta ilst edts tref wave".split())


def expect_places(boxes: list[Box], parent: bytes) -> None:
    """Refuse what may not stand in a `parent` box, or not twice."""
    for box in boxes:
        where = f"the box {box.name} stands in the {parent.decode()}"
        if box.kind in NOWHERE:
            raise not_our_film(f"{where}: {NOWHERE[box.kind]}")
        if parent not in HOMES.get(box.kind, (parent,)):
            raise not_our_film(f"{where}, where it has no place")
    for kind, count in Counter(box.kind for box in boxes).items():
        if kind in ONCE and count > 1:
            raise not_our_film(f"the {parent.decode()} has {count} boxes {kind.decode()}, not one")


def search(reader: BoxReader, boxes: list[Box]) -> list[Box]:
    """Open those of `boxes` that only FFmpeg has a use for; list all that is in them."""
    found: list[Box] = []
    closed = [box for box in boxes if box.kind in _ASIDE]
    while closed:
        parent = closed.pop()
        inside = reader.loose_children(parent, _fields_bytes(reader, parent))
        found += inside
        closed += [box for box in inside if box.kind in _ASIDE]
    return found


def _fields_bytes(reader: BoxReader, parent: Box) -> int:
    """Tell how many bytes stand before the boxes in `parent`.

    In a `meta` box they are four, or none in QuickTime's; FFmpeg looks for the `hdlr` box.
    """
    if parent.kind != b"meta" or parent.end - parent.body <= len("sizehdlr"):
        return 0
    head = reader.read(parent.body, min(parent.end - parent.body, len("flagsizehdlr")))
    for fields in (0, 4):
        if head[fields + 4 : fields + 8] == b"hdlr":
            return fields
    raise not_our_film(
        "a meta box does not begin with its hdlr box, so nothing says how to read it"
    )
