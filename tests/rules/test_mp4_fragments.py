"""A film in fragments is whole when it proves its end, tried on the parts of a real one."""

import io
import struct
from importlib import resources

import pytest

from daemon.rules.failure import Reason, Spoiled
from daemon.rules.mp4 import Film, inspect

CLIP = (resources.files("daemon") / "clips" / "fragmented.mp4").read_bytes()
MILLISECONDS = 2080  # what its longest track, the sound, lasts


def box(kind: bytes, *parts: bytes, size: int | None = None) -> bytes:
    """Build a box, and lie about its size when told to."""
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body) if size is None else size, kind) + body


def numbers(*values: int) -> bytes:
    """Pack numbers of 32 bits."""
    return struct.pack(f">{len(values)}I", *values)


def split() -> tuple[bytes, bytes, list[bytes], bytes]:
    """Take the clip apart: `ftyp`, body of `moov`, fragments each with its data, `mfra`."""
    boxes = []
    at = 0
    while at < len(CLIP):
        (size,) = struct.unpack_from(">I", CLIP, at)
        boxes.append(CLIP[at : at + size])
        at += size
    ftyp, moov, *pairs, mfra = boxes
    fragments = [moof + mdat for moof, mdat in zip(pairs[::2], pairs[1::2], strict=True)]
    return ftyp, moov[8:], fragments, mfra


FTYP, MOVIE, FRAGMENTS, MFRA = split()
MOOV = box(b"moov", MOVIE)
WHOLE = FTYP + MOOV + b"".join(FRAGMENTS)
TFRA = MFRA[8:-16]


def stating(mehd: bytes, movie: bytes = MOVIE, fragments: list[bytes] = FRAGMENTS) -> bytes:
    """Build the clip without its index, with a `mehd` box that states its duration instead."""
    at = movie.index(b"mvex") - 4
    (size,) = struct.unpack_from(">I", movie, at)
    mvex = box(b"mvex", mehd, movie[at + 8 : at + size])
    moov = box(b"moov", movie[:at], mvex, movie[at + size :])
    return FTYP + moov + b"".join(fragments)


def with_times(timescale: int, duration: int) -> bytes:
    """Change how the movie header counts time and what it says the film lasts."""
    at = MOVIE.index(b"mvhd") + 4 + 12
    return MOVIE[:at] + numbers(timescale, duration) + MOVIE[at + 8 :]


def judge(data: bytes) -> Film:
    """Inspect bytes that are in memory."""
    return inspect(io.BytesIO(data), len(data))


def refusal(data: bytes) -> tuple[Reason, str]:
    """Inspect bytes that must be refused; say why they were."""
    with pytest.raises(Spoiled) as caught:
        judge(data)
    return caught.value.reason, caught.value.message


def test_the_parts_make_the_clip() -> None:
    """The clip has several fragments and an index, and is taken apart without a loss."""
    assert len(FRAGMENTS) > 2
    assert WHOLE + MFRA == CLIP
    assert judge(CLIP).layout == "fragmented"


@pytest.mark.parametrize(
    "end",
    [
        b"",
        box(b"free", bytes(9)),
        box(b"sidx", bytes(24)),
        MFRA + FRAGMENTS[-1],
        MFRA + box(b"sidx", bytes(24)),
    ],
)
def test_without_a_proof_the_end_is_missing(end: bytes) -> None:
    """A file of fragments that could go on is taken for one that was cut."""
    reason, message = refusal(WHOLE + end)
    assert reason is Reason.TRUNCATED
    assert "does not prove its end" in message


def test_a_segment_index_proves_nothing() -> None:
    """A `sidx` box before the fragments may count one segment of many."""
    sidx = box(b"sidx", bytes(24))
    assert refusal(FTYP + MOOV + sidx + b"".join(FRAGMENTS))[0] is Reason.TRUNCATED
    assert judge(FTYP + MOOV + sidx + b"".join(FRAGMENTS) + MFRA) == judge(CLIP)


def test_padding_may_follow_the_index() -> None:
    """Nothing of the film stands behind its index, so `free` and `skip` boxes may."""
    assert judge(CLIP + box(b"free", bytes(9)) + box(b"skip", size=0)) == judge(CLIP)


@pytest.mark.parametrize(
    "mfra",
    [
        box(b"mfra"),
        box(b"mfra", TFRA),
        box(b"mfra", TFRA, box(b"mfro", numbers(0, len(MFRA) - 1))),
        box(b"mfra", TFRA, box(b"free", numbers(0, len(MFRA)))),
        box(b"mfra", box(b"mfro", numbers(0, 32)), box(b"free")),
        box(b"mfra", box(b"mfro", numbers(0))),
    ],
)
def test_the_index_ends_with_its_size(mfra: bytes) -> None:
    """A `mfra` box whose last box does not repeat its size is damaged."""
    assert refusal(WHOLE + mfra)[0] is Reason.DAMAGED


@pytest.mark.parametrize(
    "mehd",
    [
        box(b"mehd", numbers(0, MILLISECONDS)),
        box(b"mehd", numbers(1 << 24, 0, MILLISECONDS)),
    ],
)
def test_a_filled_duration_proves_the_end(mehd: bytes) -> None:
    """A file that says how long it is has its end when its fragments are as long."""
    assert judge(stating(mehd)).duration_seconds == MILLISECONDS / 1000
    assert refusal(stating(mehd, fragments=FRAGMENTS[:-1]))[0] is Reason.TRUNCATED
    assert refusal(stating(mehd, fragments=FRAGMENTS[1:]))[0] is Reason.TRUNCATED


@pytest.mark.parametrize(
    ("timescale", "longest", "too_long"),
    [(1000, 2080, 2081), (100, 208, 209), (7, 15, 16), (1, 3, 4)],
)
def test_a_duration_may_be_rounded_up(timescale: int, longest: int, too_long: int) -> None:
    """The movie may count in coarse units: less than one of them may seem to be missing."""
    movie = with_times(timescale, 0)
    film = judge(stating(box(b"mehd", numbers(0, longest)), movie))
    assert film.duration_seconds == longest / timescale
    assert refusal(stating(box(b"mehd", numbers(0, too_long)), movie))[0] is Reason.TRUNCATED


def test_a_duration_may_be_exceeded() -> None:
    """Fragments that last longer than was stated are all there."""
    assert judge(stating(box(b"mehd", numbers(0, 1000)))).duration_seconds == 1.0


@pytest.mark.parametrize("duration", [0, 2**32 - 1])
def test_an_unknown_duration_proves_nothing(duration: int) -> None:
    """A duration of 0 is none, and one of all ones is never filled."""
    assert refusal(stating(box(b"mehd", numbers(0, duration))))[0] is Reason.TRUNCATED


@pytest.mark.parametrize(("stated", "seconds"), [(0, 2.08), (1000, 2.08), (5000, 5.0)])
def test_fragments_lengthen_the_film(stated: int, seconds: float) -> None:
    """The movie header may count only what stands before the fragments, or nothing at all."""
    film = judge(FTYP + box(b"moov", with_times(1000, stated)) + b"".join(FRAGMENTS) + MFRA)
    assert film.duration_seconds == pytest.approx(seconds)


@pytest.mark.parametrize("kind", [b"mvex", b"trex"])
def test_a_fragment_needs_a_movie_made_for_it(kind: bytes) -> None:
    """A fragment whose track has no defaults cannot be read."""
    reason, message = refusal(CLIP.replace(kind, b"free"))
    assert reason is Reason.DAMAGED
    assert "no trex box" in message


def test_a_fragment_has_its_data() -> None:
    """A fragment that lost its data to padding of the same size is damaged."""
    reason, message = refusal(CLIP.replace(b"mdat", b"free", 1))
    assert reason is Reason.DAMAGED
    assert "do not lie in one mdat box" in message
