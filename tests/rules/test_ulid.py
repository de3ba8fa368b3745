"""Names for what the provider has not named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.rules.ulid import LUCK_BYTES, make_ulid

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

moments = st.integers(0, 2**48 - 1)
lucks = st.binary(min_size=LUCK_BYTES, max_size=LUCK_BYTES)


def read(ulid: str) -> tuple[int, bytes]:
    """Read an identifier back, digit by digit."""
    number = 0
    for letter in ulid:
        number = number * 32 + ALPHABET.index(letter)
    return number >> 80, (number & (1 << 80) - 1).to_bytes(10)


@given(moments, lucks)
def test_it_holds_time_and_luck(now: int, luck: bytes) -> None:
    """26 letters of Crockford's alphabet hold 48 bits of time and 80 of luck, nothing lost."""
    ulid = make_ulid(now, luck)
    assert len(ulid) == 26
    assert set(ulid) <= set(ALPHABET)
    assert read(ulid) == (now, luck)


@given(moments, moments, lucks, lucks)
def test_it_sorts_by_time(early: int, late: int, luck: bytes, other: bytes) -> None:
    """A later one sorts after an earlier one, whatever their luck."""
    if early < late:
        assert make_ulid(early, luck) < make_ulid(late, other)
    elif luck < other:
        assert make_ulid(early, luck) < make_ulid(early, other)


@pytest.mark.parametrize(
    ("now", "luck", "ulid"),
    [
        (0, bytes(10), "0" * 26),
        (2**48 - 1, b"\xff" * 10, "7" + "Z" * 25),
        (1_469_918_176_385, bytes(10), "01ARYZ6S41" + "0" * 16),
    ],
)
def test_known_values(now: int, luck: bytes, ulid: str) -> None:
    """The ends of the range, and the time of the specification's own example."""
    assert make_ulid(now, luck) == ulid
