"""A short slice of the campaign of wishes; `make campaign` runs it long."""

from pathlib import Path

from tests.campaigns.wishes import run_campaign


async def test_no_wish_is_forgotten_or_paid_twice(tmp_path: Path) -> None:
    """Whenever the daemon is killed while it asks for videos, each is paid once and stored."""
    tally = await run_campaign(tmp_path, kills=4, seed=20_261_122)
    assert tally.kills == 4
    assert len(tally.told) > 5
    assert tally.applications
