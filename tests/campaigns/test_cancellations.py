"""A short slice of the campaign of cancellations; `make campaign` runs it long."""

from pathlib import Path

from tests.campaigns.cancellations import run_campaign
from tests.campaigns.stepping import Cut
from tests.campaigns.steps import STEPS


async def test_a_cancelled_step_leaves_nothing_behind(tmp_path: Path) -> None:
    """Cut at each of its awaits, every step ends cancelled, and comes out right when done again."""
    tally = await run_campaign(tmp_path, size=160, seed=20_261_122)
    assert tally.cancelled.keys() == STEPS.keys()
    assert tally.whole.keys() == STEPS.keys()
    assert tally.cuts.keys() == set(Cut)
    assert tally.twice > 5
    assert tally.deepest["fetch"] >= 8
