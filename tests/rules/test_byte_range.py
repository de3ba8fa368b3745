"""Which bytes of a file somebody asks for."""

import pytest

from daemon.rules.byte_range import Unsatisfiable, cut


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("", None),
        ("bytes=0-", range(100)),
        ("bytes=0-0", range(1)),
        ("bytes = 10-19 ", range(10, 20)),
        ("bytes=90-5000", range(90, 100)),
        ("bytes=-10", range(90, 100)),
        ("bytes=-5000", range(100)),
        ("bytes=-", None),
        ("bytes=20-10", None),
        ("bytes=0-1,5-6", None),
        ("items=0-1", None),
        ("bytes=0x1-", None),
        ("bytes=+1-", None),
        ("bytes=²-", None),
        (f"bytes={'9' * 20}-", None),
    ],
)
def test_a_range_is_cut_out_or_as_if_it_had_not_been_asked_for(
    header: str | None, expected: range | None
) -> None:
    """What cannot be understood gets the whole file."""
    assert cut(header, 100) == expected


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0"])
def test_what_lies_behind_the_end_is_refused(header: str) -> None:
    """There is no such byte."""
    with pytest.raises(Unsatisfiable):
        cut(header, 100)


def test_an_empty_file_has_no_part() -> None:
    """Not even its first byte."""
    with pytest.raises(Unsatisfiable):
        cut("bytes=0-", 0)
