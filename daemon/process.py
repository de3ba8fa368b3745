"""Shuts the memory of this process against its own children.

Rule: called before a secret is used; what runs under our user can then open neither our memory, nor
our environment, nor our descriptors in /proc. The superuser still can.
"""

import ctypes
import os
from typing import Final

_PR_SET_DUMPABLE: Final = 4


def protect_memory() -> None:
    """Make this process not dumpable (prctl(2)); `execve` would undo it, `fork` does not.

    Raises:
        OSError: the kernel refuses, which Linux never does.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, *map(ctypes.c_ulong, (0, 0, 0, 0))):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
