"""A short slice of the sweep of power cuts; `make campaign` cuts behind every call."""

from pathlib import Path

import pytest

from tests.campaigns.cutsweep import find_missing_tools, run_campaign
from tests.campaigns.tracing import can_trace
from tests.campaigns.volumes import can_mount


async def test_no_gap_between_two_calls_is_a_gap_in_a_promise(tmp_path: Path) -> None:
    """Behind whatever call the power fails, what was promised is kept and the film gets done."""
    if package := find_missing_tools():
        pytest.skip(f"needs the package {package}")
    if not can_mount() or not can_trace():
        pytest.skip("needs root and loop devices, to cut the power of a disk")
    tally = await run_campaign(tmp_path, size=3, seed=20_261_122)
    assert tally.listed > 50
    assert tally.cuts + tally.missed == tally.done == 3
    assert tally.cuts >= 2
    assert tally.answered
