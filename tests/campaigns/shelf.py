"""Where a campaign keeps its files when no disk is on trial.

Rule: in memory where the machine offers that, else in the folder that was given; gone afterwards.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

MEMORY: Final = Path("/dev/shm")  # noqa: S108 - the file system in memory of every Linux


@contextmanager
def quick_folder(otherwise: Path) -> Iterator[Path]:
    """Yield an empty folder, in memory if possible."""
    parent = MEMORY if os.access(MEMORY, os.W_OK) else otherwise
    with tempfile.TemporaryDirectory(prefix="suno-videod-campaign-", dir=parent) as made:
        yield Path(made)
