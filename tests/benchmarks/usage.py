"""What a process and its children have used, as /proc tells it.

Rule: nothing is estimated; a process that is gone is an error, not a zero.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_AFTER_NAME: Final = 3
"""The number of the first field after the name, which may hold spaces (proc_pid_stat(5))."""


def family(pid: int) -> Iterator[int]:
    """Yield a process and all that came from it."""
    yield pid
    for thread in Path(f"/proc/{pid}/task").iterdir():
        for child in (thread / "children").read_text().split():
            yield from family(int(child))


def cpu_seconds(pid: int) -> float:
    """Return the seconds of processor time that a process, its children and the dead ones used."""
    total = 0
    for one in family(pid):
        fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        # utime, stime, and both of the children that were waited for: 14 to 17.
        total += sum(int(fields[number - _AFTER_NAME]) for number in range(14, 18))
    return total / _TICKS


def memory_bytes(pid: int, name: str = "VmHWM") -> int:
    """Return a figure of /proc/PID/status; VmHWM is the peak, VmRSS what is resident now."""
    return _read_kib(Path(f"/proc/{pid}/status"), name)


def proportional_bytes(pid: int) -> int:
    """Return the memory of a process with shared pages counted in part (PSS)."""
    return _read_kib(Path(f"/proc/{pid}/smaps_rollup"), "Pss")


def switches(pid: int) -> int:
    """Return how often the threads of a process have slept and woken up."""
    return sum(
        int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
        for text in (path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/status"))
    )


def _read_kib(path: Path, name: str) -> int:
    return int(path.read_text().partition(f"\n{name}:")[2].split()[0]) << 10
