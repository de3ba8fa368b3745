"""Is there room on the disk?

Rule: downloads stop while there is still space, so that the database always finds some: the disk
may refuse a video, never a callback.
"""

from typing import Final

ASSUMED_VIDEO_BYTES: Final = 64 << 20
"""What a film of unknown length is taken to need. Real ones have about 5 MB for two minutes of
song; longer ones are caught by asking again while they grow."""

RECHECK_BYTES: Final = 64 << 20
"""How much may be written before the free space is looked at again."""


def missing_room(free_bytes: int, needed_bytes: int, min_free_bytes: int) -> int:
    """Return how many bytes are lacking to write `needed_bytes` and keep `min_free_bytes`; 0: go.

    `free_bytes` is what an ordinary user may still write (`f_bavail`), not what is free for root.
    """
    return max(0, needed_bytes + min_free_bytes - free_bytes)
