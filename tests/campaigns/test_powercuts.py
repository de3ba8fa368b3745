"""A short slice of the campaign of power cuts; `make campaign` runs it long."""

import shutil
from pathlib import Path

import pytest

from tests.campaigns.powercuts import run_campaign
from tests.campaigns.volumes import can_mount


async def test_what_was_acknowledged_survives_every_power_cut(tmp_path: Path) -> None:
    """Whenever the power fails, what was acknowledged and what was stored is on the disk."""
    if shutil.which("mkfs.xfs") is None:
        pytest.skip("needs the package xfsprogs")
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("needs the package e2fsprogs")
    if not can_mount():
        pytest.skip("needs root and loop devices, to cut the power of a disk")
    tally = await run_campaign(tmp_path, cuts=8, seed=20_261_122)
    assert tally.cuts == 8
    assert tally.aimed
    assert tally.answered > 50
    assert tally.stored
    assert tally.under_way
