"""What every story begins with."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.stories.stage import Stage


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    """Give a story its stage, and clear it afterwards."""
    async with AsyncExitStack() as stack:
        yield Stage(tmp_path, stack)
