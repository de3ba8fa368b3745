"""A short slice of the campaign of kills; `make campaign` runs it long."""

from pathlib import Path

from tests.campaigns.kills import run_campaign


async def test_what_was_acknowledged_survives_every_kill(tmp_path: Path) -> None:
    """Whenever the daemon is killed, no acknowledged callback is missing when it is back."""
    tally = await run_campaign(tmp_path, kills=5, seed=20_261_122)
    assert tally.kills >= 5
    assert tally.answered.total() > 20
    assert tally.films
