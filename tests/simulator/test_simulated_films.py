"""Films of any size, made from the clips."""

import hashlib
import itertools
import struct

import pytest

from daemon.simulator.films import Clip, Film
from tests.simulator.asking import read_all

SIZE = 300_000
CLIPS: tuple[Clip, ...] = ("faststart", "moov_last", "fragmented")


def walk_boxes(content: bytes) -> list[tuple[str, int]]:
    """Return (type, size) of every top-level box; they have to fill the content."""
    boxes = []
    place = 0
    while place < len(content):
        size, kind = struct.unpack_from(">I4s", content, place)
        boxes.append((kind.decode(), size))
        place += size
    assert place == len(content)
    return boxes


@pytest.mark.parametrize("clip", CLIPS)
def test_film_is_its_clip_and_one_free_box(clip: Clip) -> None:
    """A film of any size is the clip's own boxes and one `free` box more."""
    smallest = next(
        size for size in itertools.count(1) if not isinstance(_try_film(size, clip), ValueError)
    )
    bare = walk_boxes(read_all(Film("a", smallest, clip)))
    padded = walk_boxes(read_all(Film("a", smallest + 5_000, clip)))
    padded.remove(("free", 5_000))
    assert padded == bare
    assert {"ftyp", "moov", "mdat"} <= {kind for kind, _ in bare}


def _try_film(size_bytes: int, clip: Clip) -> Film | ValueError:
    try:
        return Film("a", size_bytes, clip)
    except ValueError as error:
        return error


def test_fragmented_film_still_ends_with_mfra() -> None:
    """Padding goes before `mfra`, which proves the end of a fragmented film only as last box."""
    boxes = walk_boxes(read_all(Film("a", SIZE, "fragmented")))
    assert [kind for kind, _ in boxes[-2:]] == ["free", "mfra"]


@pytest.mark.parametrize("excess", [1, 7])
def test_film_too_small_for_its_padding_is_refused(excess: int) -> None:
    """No film is made whose padding could not hold the header of a box."""
    content = read_all(Film("a", SIZE))
    clip_bytes = SIZE - walk_boxes(content)[-1][1]
    assert Film("a", clip_bytes).size_bytes == clip_bytes
    with pytest.raises(ValueError, match="no faststart film"):
        Film("a", clip_bytes + excess)
    with pytest.raises(ValueError, match="no faststart film"):
        Film("a", clip_bytes - 1)


def test_huge_film_has_a_64_bit_box_and_is_read_from_any_place() -> None:
    """A film beyond 4 GiB is consistent, and reading its end does not make the rest."""
    film = Film("a", 1 << 40)
    head = b"".join(film.read(0, 40_000))
    place = head.index(b"\x00\x00\x00\x01free")
    assert struct.unpack_from(">Q", head, place + 8) == (film.size_bytes - place,)
    assert sum(map(len, film.read(film.size_bytes - 5, film.size_bytes + 100))) == 5


def test_any_span_of_a_film_is_that_span() -> None:
    """Reading a span gives the same bytes as cutting it out of the whole."""
    film = Film("a", SIZE, "fragmented")
    whole = read_all(film)
    places = [0, 1, 36_521, 36_522, 36_530, 36_531, 150_000, SIZE - 225, SIZE - 224, SIZE]
    for start, stop in itertools.combinations(places, 2):
        assert b"".join(film.read(start, stop, 4_096)) == whole[start:stop]


def test_films_differ_by_task_and_by_place() -> None:
    """Two tasks have different films, and a misplaced megabyte of one film changes its digest."""
    film = Film("a", 8 << 20)
    assert film.sha256() == hashlib.sha256(read_all(film)).hexdigest()
    assert film.sha256() != Film("b", 8 << 20).sha256()
    assert film.etag != Film("b", 8 << 20).etag
    megabytes = {b"".join(film.read(n << 20, (n + 1) << 20)) for n in range(8)}
    assert len(megabytes) == 8
