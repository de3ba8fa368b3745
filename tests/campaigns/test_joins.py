"""A slice of the campaign that ends a daemon while films come over several connections."""

from pathlib import Path

from tests.campaigns.joins import run_campaign


async def test_films_over_several_connections_survive_every_end(tmp_path: Path) -> None:
    """Whole in the end and never half before, however often the daemon is killed or stopped."""
    tally = await run_campaign(tmp_path, 3, 20261122)
    assert sum(tally.ends.values()) == 3
    assert set(tally.ends) <= {"kill", "stop"}
    assert max(tally.connections) > 1
    assert tally.resumed
