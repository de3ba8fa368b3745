"""A short slice of the campaign of full disks; `make campaign` runs it long."""

import shutil
from pathlib import Path

import pytest

from tests.campaigns.fulldisk import run_campaign
from tests.campaigns.volumes import can_mount


async def test_a_full_disk_loses_nothing_and_recovers_by_itself(tmp_path: Path) -> None:
    """What was acknowledged without room is kept, and everything goes on when there is some."""
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("needs the package e2fsprogs")
    if not can_mount():
        pytest.skip("needs root and loop devices, for a disk that is really full")
    # This seed waits for its films: one that is on its way could use the reserve up, and then no
    # callback is sure of any room.
    tally = await run_campaign(tmp_path, fills=1, seed=20_261_127)
    assert tally.fills == tally.gates == 1
    assert tally.acknowledged
    assert tally.refused
    assert tally.served + tally.explained == 1
    assert tally.done > 2
