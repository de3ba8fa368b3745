"""The disk may refuse a video, never a callback."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.rules.space import ASSUMED_VIDEO_BYTES, RECHECK_BYTES, missing_room

sizes = st.integers(0, 1 << 50)


@pytest.mark.parametrize(
    ("free", "needed", "minimum", "missing"),
    [(110, 10, 100, 0), (109, 10, 100, 1), (0, 10, 100, 110), (100, 0, 100, 0), (99, 0, 100, 1)],
)
def test_examples(free: int, needed: int, minimum: int, missing: int) -> None:
    """What is needed must fit above the minimum, to the byte."""
    assert missing_room(free, needed, minimum) == missing


@given(sizes, sizes, sizes)
def test_what_is_missing_is_enough(free: int, needed: int, minimum: int) -> None:
    """Freeing what is missing makes room, one byte less does not, and zero means go."""
    missing = missing_room(free, needed, minimum)
    assert missing >= 0
    assert missing_room(free + missing, needed, minimum) == 0
    if missing:
        assert missing_room(free + missing - 1, needed, minimum) == 1
    assert (missing == 0) == (free - needed >= minimum)


def test_a_film_without_length_is_watched() -> None:
    """No more is written unwatched than was assumed before."""
    assert 0 < RECHECK_BYTES <= ASSUMED_VIDEO_BYTES
