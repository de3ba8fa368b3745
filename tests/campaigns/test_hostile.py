"""A short slice of the campaign of hostile hosts; `make campaign` runs it long."""

from pathlib import Path

from tests.campaigns.hostile import LIES, Tally, cases, one_of_each, play_cases, play_transfers

SEED = 20_261_122


def test_the_table_of_lies_is_long_and_has_no_doubles() -> None:
    """A name stands for one behaviour, and every behaviour is played somewhere."""
    assert len({lie.name for lie in LIES}) == len(LIES) > 60
    assert {case.lie.name for case in cases()} == {lie.name for lie in LIES}


async def test_every_lie_ends_as_it_has_to(tmp_path: Path) -> None:
    """Each lie in one framing, over HTTP or TLS, fresh or resumed; then the film is whole."""
    tally = Tally()
    await play_cases(tmp_path, list(one_of_each(SEED)), tally)
    assert tally.cases == len(LIES)
    assert not tally.wrong_ends


async def test_no_mixture_of_lies_finishes_a_wrong_film(tmp_path: Path) -> None:
    """Whatever was met on the way, what is finished is the film, and little is fetched twice."""
    tally = Tally()
    await play_transfers(tmp_path, 60, SEED, tally)
    assert tally.transfers == 60
    assert tally.lies > 80
    assert tally.resumable > 10
    assert tally.cost < 1.3
