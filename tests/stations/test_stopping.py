"""The last resort: a process that is told to stop ends, whatever hangs in it."""

import subprocess
import sys
import time

HANGING = """
import threading, time
from daemon import service

service.STOP_SECONDS = 0.3
service._end_in_any_case()
threading.Thread(target=time.sleep, args=(60,)).start()
time.sleep(60)
"""


def test_stopping_ends_although_something_hangs() -> None:
    """A disk call that never returns keeps threads and loop; what was promised is on the disk."""
    began = time.monotonic()
    ended = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-c", HANGING], capture_output=True, check=False, timeout=30
    )
    assert ended.returncode == 0
    assert time.monotonic() - began < 15
    assert b"daemon.cut_short" in ended.stdout
