"""Durations, sizes and modes are read as people write them, and printed so that they read back."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.config.units import (
    LARGEST_BYTES,
    LONGEST,
    format_duration,
    format_mode,
    format_size,
    parse_duration,
    parse_mode,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("200ms", timedelta(milliseconds=200)),
        ("30s", timedelta(seconds=30)),
        ("15m", timedelta(minutes=15)),
        ("6h", timedelta(hours=6)),
        ("14d", timedelta(days=14)),
        ("1h30m", timedelta(minutes=90)),
        ("1d2h3m4s5ms", timedelta(days=1, hours=2, minutes=3, seconds=4, milliseconds=5)),
        ("0", timedelta()),
        ("0s", timedelta()),
        ("36500d", LONGEST),
        ("3153600000000ms", LONGEST),
    ],
)
def test_duration_is_read(text: str, span: timedelta) -> None:
    """Every unit counts what it says, alone and from long to short."""
    assert parse_duration(text) == span


@pytest.mark.parametrize(
    "text", ["", "30", "s", "1.5h", "-3s", "3 s", "30S", "5m1h", "2w", "PT30S", "٣s", "1s\n"]
)
def test_what_is_no_duration_says_how_one_looks(text: str) -> None:
    """A span without a unit, with a foreign one or with other characters is refused."""
    with pytest.raises(ValueError, match='expected a duration such as "30s", "15m" or "14d"'):
        parse_duration(text)


@pytest.mark.parametrize("text", ["36500d1ms", "999999999999d"])
def test_duration_beyond_a_century_is_refused(text: str) -> None:
    """No duration can push a date out of the calendar, however many digits it has."""
    with pytest.raises(ValueError, match='at most "36500d"'):
        parse_duration(text)


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (timedelta(), "0s"),
        (timedelta(milliseconds=200), "200ms"),
        (timedelta(seconds=90), "90s"),
        (timedelta(minutes=3), "3m"),
        (timedelta(hours=36), "36h"),
        (timedelta(days=14), "14d"),
    ],
)
def test_duration_is_printed_in_one_unit(span: timedelta, text: str) -> None:
    """The largest unit that needs no fraction is chosen."""
    assert format_duration(span) == text


@given(st.integers(0, LONGEST // timedelta(milliseconds=1)))
def test_every_duration_reads_back(milliseconds: int) -> None:
    """Printing and reading a duration changes nothing."""
    span = timedelta(milliseconds=milliseconds)
    assert parse_duration(format_duration(span)) == span


@pytest.mark.parametrize(
    ("value", "size_bytes"),
    [
        (0, 0),
        ("0", 0),
        (1000, 1000),
        ("1000", 1000),
        ("64K", 65_536),
        ("64k", 65_536),
        ("8M", 8_388_608),
        ("2g", 2_147_483_648),
        ("1T", 1_099_511_627_776),
        (LARGEST_BYTES, LARGEST_BYTES),
    ],
)
def test_size_is_read(value: str | int, size_bytes: int) -> None:
    """Letters are powers of 1024 in either case, and a plain number is bytes."""
    assert parse_size(value) == size_bytes


@pytest.mark.parametrize("value", ["", "K", "4 G", "4GB", "1.5G", "-1", -1, "٤K", "2P"])
def test_what_is_no_size_says_how_one_looks(value: str | int) -> None:
    """Fractions, foreign units and negative numbers are refused."""
    with pytest.raises(ValueError, match='expected a size such as "64K"'):
        parse_size(value)


@pytest.mark.parametrize("value", [LARGEST_BYTES + 1, "9999999999T"])
def test_size_beyond_64_bits_is_refused(value: str | int) -> None:
    """No size is larger than the database and a file offset can count."""
    with pytest.raises(ValueError, match="at most 9223372036854775807 bytes"):
        parse_size(value)


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0"), (1025, "1025"), (65_536, "64K"), (4 * 1024**3, "4G"), (1024**4, "1T")],
)
def test_size_is_printed_with_its_largest_letter(size_bytes: int, text: str) -> None:
    """The largest power of 1024 that needs no fraction is chosen."""
    assert format_size(size_bytes) == text


@given(st.integers(0, LARGEST_BYTES))
def test_every_size_reads_back(size_bytes: int) -> None:
    """Printing and reading a size changes nothing."""
    assert parse_size(format_size(size_bytes)) == size_bytes


@pytest.mark.parametrize(("text", "mode"), [("0640", 0o640), ("750", 0o750), ("2750", 0o2750)])
def test_mode_is_octal(text: str, mode: int) -> None:
    """Three or four octal digits are permission bits."""
    assert parse_mode(text) == mode


@pytest.mark.parametrize("text", ["", "64", "0o640", "0689", "00640", "rw-r-----", " 640"])
def test_what_is_no_mode_says_how_one_looks(text: str) -> None:
    """Anything but three or four octal digits is refused."""
    with pytest.raises(ValueError, match='expected an octal mode such as "0640"'):
        parse_mode(text)


@given(st.integers(0, 0o7777))
def test_every_mode_reads_back(mode: int) -> None:
    """Printing and reading a mode changes nothing."""
    assert parse_mode(format_mode(mode)) == mode
