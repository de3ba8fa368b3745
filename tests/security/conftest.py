"""What the tests of security begin with: the fixtures of the stations and of the stories."""

from tests.stations.conftest import disk, moves, store
from tests.stories.conftest import stage

__all__ = ["disk", "moves", "stage", "store"]
