"""A short slice of the campaign of shutdowns; `make campaign` runs it long."""

from pathlib import Path

from tests.campaigns.shutdowns import run_campaign


async def test_a_stop_loses_neither_callbacks_nor_bytes(tmp_path: Path) -> None:
    """Whenever it is told to stop, the daemon ends by itself, in time, and keeps all it has."""
    tally = await run_campaign(tmp_path, size=4, seed=20_261_122)
    assert {"polite", "twice", "frozen"} <= tally.stops.keys()
    assert tally.answered.total() > 20
    assert tally.interrupted >= 4
    assert tally.refused + tally.closed.total() >= 4
    assert tally.whole
