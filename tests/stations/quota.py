"""A disk without room, for one process."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def file_limit(limit_bytes: int) -> Iterator[None]:
    """Let every write of this process beyond `limit_bytes` of a file fail, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
