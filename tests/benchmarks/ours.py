"""Our own daemon as the benchmarks run it: the real process, with its log in a file.

Rule: nothing is switched off that a user would have; the keys set here are those a row is about.
"""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final

from tests.benchmarks.caller import call, successes
from tests.campaigns.storm import SlowDaemon
from tests.stories.harness import Daemon, Section, configure

NOBODY: Final = "http://127.0.0.1:9"
"""A provider that is never asked."""
LOOK_SECONDS: Final = 0.002


class TooSlow(Exception):
    """What was waited for did not come in time."""


@contextmanager
def our_daemon(
    folder: Path,
    *,
    trust: str = "callback",
    base_url: str = NOBODY,
    environ: Mapping[str, str] | None = None,
    delay_ms: int = 0,
    **changes: Section,
) -> Iterator[Daemon]:
    """Run a daemon in a folder of its own; `changes` are sections of its configuration.

    With `delay_ms` every one of its syncs lasts so much longer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    key = {} if trust == "confirm" else {"api_key": None}
    sections: dict[str, Section] = {
        **changes,
        "callback": {"trust": trust, **changes.get("callback", {})},
        "provider": {**key, **changes.get("provider", {})},
        "log": {"level": "info"},
    }
    # On a slow disk it complains, and rightly.
    daemon = SlowDaemon(folder, configure(base_url, **sections), expect_errors=delay_ms > 0)
    daemon.delay_ms = delay_ms
    try:
        daemon.start(**(environ or {}))
        yield daemon
    finally:
        daemon.end()


def time_start(folder: Path) -> float:
    """Start a daemon in a folder, end it, and return the seconds from its exec to its readiness.

    Both are read off clocks that nobody waits for: the line in the log has its own.
    """
    began = time.time()
    with our_daemon(folder) as daemon:
        said = datetime.fromisoformat(daemon.ready["timestamp"])
        return said.timestamp() - began


def path_of(daemon: Daemon, task_id: str) -> Path:
    """Return where a finished video stands."""
    return daemon.videos / f"video_{task_id}.mp4"


def wait_for(path: Path, seconds: float = 60.0) -> None:
    """Wait until a finished video stands in its place."""
    until = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > until:
            raise TooSlow(f"{path.name} did not come within {seconds:g} s")
        time.sleep(LOOK_SECONDS)


def fetch(daemon: Daemon, links: Mapping[str, str], seconds: float = 60.0) -> float:
    """Send the callbacks of task id -> link; return the seconds until all videos are in place.

    They are taken away again, for no later round is to find a fuller disk.
    """
    requests = successes(daemon.url, list(links.items()))
    paths = [path_of(daemon, task_id) for task_id in links]
    # Nobody pays for what the one before has left to be written.
    os.sync()
    began = time.perf_counter()
    call(daemon.url, requests, len(requests))
    for path in paths:
        wait_for(path, seconds)
    took = time.perf_counter() - began
    for path in paths:
        path.unlink()
    return took
