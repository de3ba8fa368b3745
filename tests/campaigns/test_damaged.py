"""A short slice of the campaign of damaged ledgers; `make campaign` runs it long."""

from pathlib import Path

from tests.campaigns.damage import run_campaign


async def test_no_damaged_ledger_opens_with_anything_missing(tmp_path: Path) -> None:
    """Refused twice with the way out, or found beside the work, or all of it is there."""
    tally = await run_campaign(tmp_path, size=24, seed=20_261_122)
    assert tally.outcomes.total() == 24
    assert tally.outcomes["refused"] >= 5
    assert tally.outcomes["harmless"] >= 5
    assert tally.large >= 3
    assert len(tally.harms) >= 6
    assert tally.restored == tally.outcomes["refused"] + tally.outcomes["found later"]
    assert tally.asked_again >= tally.restored
