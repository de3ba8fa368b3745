"""A short slice of the campaign of planted defects; `make campaign` tries them all."""

import random
from pathlib import Path

import pytest

from tests.campaigns.campaign import PromiseBroken
from tests.campaigns.defects import DEFECTS, Change, Defect
from tests.campaigns.mutants import ROOT, choose, find, plant, try_defects

HARMLESS = Defect(
    "the log of the ledger may grow a little more",
    (
        Change(
            "daemon/database.py", '"journal_size_limit": 64 << 20', '"journal_size_limit": 65 << 20'
        ),
    ),
    ("tests/stations/test_database.py::test_what_is_committed_is_on_the_disk",),
)


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.name)
def test_every_defect_can_still_be_planted(defect: Defect) -> None:
    """Its text stands in the tree exactly once, and its tests are there."""
    assert [find(ROOT, change) for change in defect.changes] == [1] * len(defect.changes)
    assert all(change.old != change.new for change in defect.changes)
    assert defect.tests or defect.campaign
    for test in defect.tests:
        path, _, name = test.partition("::")
        assert not name or f"def {name}(" in (ROOT / path).read_text()


def test_a_defect_whose_text_is_gone_is_no_defect(tmp_path: Path) -> None:
    """It would be planted nowhere, and noticed by nobody."""
    (tmp_path / "one.py").write_text("twice, twice")
    for old in ("never", "twice"):
        with pytest.raises(PromiseBroken, match="times"):
            plant(tmp_path, Defect("rotten", (Change("one.py", old, "new"),)))
    assert (tmp_path / "one.py").read_text() == "twice, twice"


async def test_a_planted_defect_is_noticed(tmp_path: Path) -> None:
    """A quick one of the list is; a change that harms nothing is not."""
    chosen = choose(1, random.Random(20_261_122))
    assert all(defect.is_quick for defect in chosen)
    tally = await try_defects(tmp_path, [*chosen, HARMLESS])
    assert [trial.caught for trial in tally.trials] == [True, False]
    assert tally.survivors == [HARMLESS.name]
