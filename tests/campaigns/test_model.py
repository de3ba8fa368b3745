"""A short slice of the campaign of the model; `make campaign` runs it long."""

from pathlib import Path

from daemon.rules.notice import Evidence
from tests.campaigns.model import run_campaign


async def test_the_ledger_keeps_its_laws_whatever_happens(tmp_path: Path) -> None:
    """After every step of every play, and in the end a good provider brings all home."""
    tally = await run_campaign(tmp_path, size=40, seed=20_261_122)
    assert tally.plays >= 40
    assert tally.steps > 500
    # How many end so is the luck of Hypothesis, which no seed binds.
    assert tally.brought_home
    assert tally.orders > 30
    assert Evidence.SUCCESS in tally.kinds
