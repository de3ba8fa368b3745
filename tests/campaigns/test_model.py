"""A short slice of the campaign of the model; `make campaign` runs it long."""

from pathlib import Path

from daemon.rules.notice import Evidence
from tests.campaigns.model import run_campaign


async def test_the_ledger_keeps_its_laws_whatever_happens(tmp_path: Path) -> None:
    """After every step of every play, and in the end a good provider brings all home."""
    tally = await run_campaign(tmp_path, size=60, seed=20_261_122)
    assert tally.plays >= 60
    assert tally.steps > 1000
    assert tally.brought_home > 10
    assert tally.orders > 50
    assert Evidence.SUCCESS in tally.kinds
