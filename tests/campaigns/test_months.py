"""A short slice of the campaign of months; `make campaign` runs it long."""

from pathlib import Path

from tests.campaigns.months import run_campaign


async def test_no_video_is_left_behind_in_days_of_trouble(tmp_path: Path) -> None:
    """What could be had for six hours on end is had, at the agreed pace, and nothing stays open."""
    tally = await run_campaign(tmp_path, size=1, seed=20_261_122)
    assert tally.days > 2
    assert tally.states["done"] > 10
    assert tally.denials > 5
    assert tally.refusals > 5
    assert len(tally.troubles) >= 3
