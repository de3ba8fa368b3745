"""Durations, sizes and permission modes, as people write them.

Rule: what a `format_` function prints, its `parse_` twin reads back to the same value.
"""

import re
from datetime import timedelta
from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

LONGEST: Final = timedelta(days=36_500)
"""A century. Longer spans would leave the calendar as soon as they are added to a date."""
LARGEST_BYTES: Final = 2**63 - 1
"""What SQLite and a file offset can count."""

_SPAN = re.compile(
    r"(?:(?P<days>\d{1,15})d)?(?:(?P<hours>\d{1,15})h)?(?:(?P<minutes>\d{1,15})m)?"
    r"(?:(?P<seconds>\d{1,15})s)?(?:(?P<milliseconds>\d{1,15})ms)?",
    re.ASCII,
)
_STEPS = (
    ("d", timedelta(days=1)),
    ("h", timedelta(hours=1)),
    ("m", timedelta(minutes=1)),
    ("s", timedelta(seconds=1)),
)
_SIZE = re.compile(r"(\d{1,19})([KMGT]?)", re.ASCII | re.IGNORECASE)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
_MODE = re.compile(r"[0-7]{3,4}", re.ASCII)


def parse_duration(text: str) -> timedelta:
    """Read "200ms", "30s", "15m", "6h", "14d", or several from long to short as in "1h30m".

    Raises:
        ValueError: it is none of these, or longer than a century.
    """
    if text == "0":
        return timedelta()
    found = _SPAN.fullmatch(text)
    if found is None or not text:
        raise ValueError('expected a duration such as "30s", "15m" or "14d"')
    parts = {unit: int(digits) for unit, digits in found.groupdict(default="0").items()}
    try:
        span = timedelta(**parts)
    except OverflowError:
        span = timedelta.max
    if span > LONGEST:
        raise ValueError(f'expected a duration of at most "{LONGEST.days}d"')
    return span


def format_duration(span: timedelta) -> str:
    """Print `span` in the largest unit that needs no fraction; finer than 1 ms is cut off."""
    for unit, step in _STEPS:
        if span >= step and not span % step:
            return f"{span // step}{unit}"
    return f"{span // timedelta(milliseconds=1)}ms" if span else "0s"


def parse_size(value: str | int) -> int:
    """Read bytes as a number, or as "64K", "8M", "2G", "1T" in powers of 1024, in either case.

    Raises:
        ValueError: it is neither, negative, or beyond 64 bits.
    """
    found = _SIZE.fullmatch(str(value))
    if found is None:
        raise ValueError('expected a size such as "64K", "8M" or "2G", or a number of bytes')
    size = int(found[1]) << 10 * _POWERS[found[2].upper()]
    if size > LARGEST_BYTES:
        raise ValueError(f"expected a size of at most {LARGEST_BYTES} bytes")
    return size


def format_size(size_bytes: int) -> str:
    """Print `size_bytes` in the largest unit that needs no fraction."""
    for letter, power in reversed(_POWERS.items()):
        whole, rest = divmod(size_bytes, 1 << 10 * power)
        if whole and not rest:
            return f"{whole}{letter}"
    return "0"


def parse_mode(text: str) -> int:
    """Read permission bits from an octal string such as "0640".

    Raises:
        ValueError: it is not three or four octal digits.
    """
    if not _MODE.fullmatch(text):
        raise ValueError('expected an octal mode such as "0640"')
    return int(text, 8)


def format_mode(mode: int) -> str:
    """Print permission bits as four octal digits."""
    return f"{mode:04o}"
