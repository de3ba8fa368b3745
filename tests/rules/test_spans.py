"""Spans behave like a set of byte numbers, in fewer words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.rules.spans import Spans

LIMIT = 40

pieces = st.tuples(st.integers(0, LIMIT), st.integers(0, LIMIT)).map(sorted)
sizes = st.integers(0, LIMIT + 5)


def build(parts: list[list[int]]) -> tuple[Spans, set[int]]:
    """Add the parts one by one, to the spans and to the model."""
    spans, model = Spans(), set[int]()
    for start, end in parts:
        spans = spans.add(start, end)
        model |= set(range(start, end))
    return spans, model


def members(ranges: tuple[tuple[int, int], ...]) -> list[int]:
    """List every byte number, so that an overlap would show as a duplicate."""
    return [byte for start, end in ranges for byte in range(start, end)]


@given(st.lists(pieces))
def test_adding_is_set_union(parts: list[list[int]]) -> None:
    """Any order of additions holds exactly the bytes that were added, each once, in order."""
    spans, model = build(parts)
    assert members(spans.ranges) == sorted(model)
    assert spans.total_bytes == len(model)


@given(st.lists(pieces))
def test_equal_bytes_have_one_value(parts: list[list[int]]) -> None:
    """The way the bytes came leaves no trace: neighbours have melted into one range."""
    spans, model = build(parts)
    one_by_one, _ = build([[byte, byte + 1] for byte in model])
    assert spans == one_by_one


@given(st.lists(pieces), sizes)
def test_gaps_are_the_complement(parts: list[list[int]], size_bytes: int) -> None:
    """The gaps are the bytes below the size that nobody added, and none of them is empty."""
    spans, model = build(parts)
    gaps = spans.gaps(size_bytes)
    assert members(gaps) == sorted(set(range(size_bytes)) - model)
    assert all(start < end for start, end in gaps)
    assert spans.covers(size_bytes) == (set(range(size_bytes)) <= model)


@given(st.lists(pieces), sizes)
def test_filling_the_gaps_completes_the_file(parts: list[list[int]], size_bytes: int) -> None:
    """Fetching every gap, and nothing else, makes the file whole."""
    spans, _ = build(parts)
    for start, end in spans.gaps(size_bytes):
        spans = spans.add(start, end)
    assert spans.covers(size_bytes)


@given(st.lists(pieces), sizes)
def test_cut_forgets_what_the_disk_lost(parts: list[list[int]], size_bytes: int) -> None:
    """Nothing at or beyond the file's end counts as present, everything below stays."""
    spans, model = build(parts)
    assert members(spans.cut(size_bytes).ranges) == sorted(model & set(range(size_bytes)))


@given(st.lists(pieces))
def test_the_text_comes_back(parts: list[list[int]]) -> None:
    """What is written to the database is read as the same value."""
    spans, _ = build(parts)
    assert Spans.parse(str(spans)) == spans


@given(st.text(alphabet="0123456789-,", max_size=20))
def test_no_two_texts_for_one_value(text: str) -> None:
    """A text is either refused or exactly what would be written for its bytes."""
    try:
        spans = Spans.parse(text)
    except ValueError:
        return
    assert str(spans) == text


def test_the_text_is_plain() -> None:
    """The column holds start and end of each range, and nothing when nothing is there."""
    spans = Spans().add(2_097_152, 3_145_728).add(0, 1_048_576)
    assert str(spans) == "0-1048576,2097152-3145728"
    assert str(Spans()) == ""
    assert Spans.parse("") == Spans()


@pytest.mark.parametrize(
    "text",
    [
        " ",
        "0",
        "0-",
        "-5",
        "5-5",
        "6-5",
        "0-5,",
        ",0-5",
        "0-5 ",
        "0-5\n",
        "00-5",
        "0-05",
        "+0-5",
        "0-5,5-9",
        "0-5,3-9",
        "6-9,0-5",
        "0-5;6-9",
        "0-\u0665",
        "0-" + "9" * 5000,
    ],
)
def test_malformed_text_is_refused(text: str) -> None:
    """A damaged column is an error, never a guess about what is on disk."""
    with pytest.raises(ValueError, match=r"."):
        Spans.parse(text)


@pytest.mark.parametrize("ranges", [((3, 3),), ((5, 2),), ((-1, 2),), ((0, 2), (2, 4))])
def test_no_value_breaks_the_rule(ranges: tuple[tuple[int, int], ...]) -> None:
    """Building the value by hand is held to the same rule as adding and parsing."""
    with pytest.raises(ValueError, match="range"):
        Spans(ranges)


@pytest.mark.parametrize(("start", "end"), [(-1, 4), (4, 3)])
def test_adding_nonsense_is_refused(start: int, end: int) -> None:
    """A range that runs backwards or begins before the file is a mistake of the caller."""
    with pytest.raises(ValueError, match="is no range"):
        Spans().add(0, 10).add(start, end)
