"""SHA-256 of a partial file, read back from its beginning while the rest still arrives.

Rule: only bytes that will not change any more are read, and they are read from the file, so the
digest is that of what stands there and not of what somebody meant to write. It knows which file it
read: for another one under the same name it is worth nothing.
"""

import hashlib
import os
from typing import Final

READ_BYTES: Final = 256 << 10


class Digest:
    """The digest of the first `end` bytes of one open file. Its methods block."""

    def __init__(self) -> None:
        self.end = 0
        self._sha256 = hashlib.sha256()
        self._file: tuple[int, int] | None = None

    def advance(self, descriptor: int, end: int) -> None:
        """Read on, up to `end` or the end of the file.

        Raises:
            OSError: the disk failed.
        """
        found = os.fstat(descriptor)
        if self._file != (found.st_dev, found.st_ino):
            self.end, self._sha256 = 0, hashlib.sha256()
            self._file = (found.st_dev, found.st_ino)
        block = bytearray(min(READ_BYTES, max(0, end - self.end)))
        view = memoryview(block)
        while self.end < end:
            count = os.preadv(descriptor, [view[: end - self.end]], self.end)
            if count == 0:
                break
            self._sha256.update(view[:count])
            self.end += count

    def hexdigest(self) -> str:
        """Return the digest of what was read so far."""
        return self._sha256.hexdigest()
