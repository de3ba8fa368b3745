"""Each requirement on security has a test that is named after it, or a reason here why not."""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

COUNTS: Final[Mapping[int, int]] = {1: 13, 2: 9, 3: 11, 4: 7, 5: 5, 6: 5, 7: 5, 8: 8, 9: 5}
"""How many requirements each section has: S1-01 to S1-13, and so on."""

ELSEWHERE: Final[Mapping[str, str]] = {
    "S2-09": "one URL for all tasks, by design; the other half of it is S2-02",
    "S4-02": "comes with the decoder",
    "S4-03": "comes with the decoder",
    "S4-06": "comes with the decoder",
    "S6-01": "comes with the owner's command",
    "S6-02": "comes with the owner's command",
    "S6-05": "comes with the owner's command",
    "S7-05": "may, and is not there",
    "S9-03": "not required by design",
}


def named() -> Counter[str]:
    """Count the tests of each requirement."""
    found: Counter[str] = Counter()
    for path in sorted(Path(__file__).parent.glob("test_s*.py")):
        for section, number in re.findall(r"def test_s(\d)_(\d\d)_", path.read_text("utf-8")):
            found[f"S{section}-{number}"] += 1
    return found


@pytest.mark.parametrize(
    "requirement",
    [
        f"S{section}-{number:02}"
        for section, count in COUNTS.items()
        for number in range(1, count + 1)
    ],
)
def test_each_requirement_has_a_test_or_a_reason(requirement: str) -> None:
    """And no requirement has both."""
    assert bool(named()[requirement]) != (requirement in ELSEWHERE), requirement


def test_no_test_is_named_after_nothing() -> None:
    """A number that no requirement has would be a mistype."""
    known = {
        f"S{section}-{number:02}" for section in COUNTS for number in range(1, COUNTS[section] + 1)
    }
    assert set(named()) <= known
