"""What the tests of the requirements on security begin with."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.stories.stage import Stage


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    """Give a test a stage with real daemons, and clear it afterwards."""
    async with AsyncExitStack() as stack:
        yield Stage(tmp_path, stack)
