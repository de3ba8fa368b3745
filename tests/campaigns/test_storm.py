"""A short slice of the campaign of storms; `make campaign` runs it long."""

import shutil
from pathlib import Path

import pytest

from tests.campaigns.storm import run_campaign


async def test_a_storm_on_a_slow_disk_loses_nothing_and_delays_nobody(tmp_path: Path) -> None:
    """Callbacks that come at once share their syncs, and strangers hold nobody up."""
    if shutil.which("strace") is None:
        pytest.skip("needs the package strace")
    tally = await run_campaign(tmp_path, size=200, seed=20_261_122, delays_ms=(0, 100))
    quick, slow = tally.waves
    assert quick.delayed == 0
    assert slow.delayed > 0
    assert len(slow.seconds) > 200
    assert tally.unreadable
    assert tally.cut_off > 50
