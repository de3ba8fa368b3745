"""The watchdog of a real process: what stands still is in the log before systemd ends it."""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from daemon.config import environment
from tests.stories.harness import write_toml

WATCHDOG_SECONDS = 2.0

STUMBLING = """
import asyncio, sys, time
from daemon import assembly, pulse, service

async def stumble():
    await asyncio.sleep(0.5)
    {fault}

build = assembly.build

async def build_stumbling(config, stack):
    parts = await build(config, stack)
    parts.loops["poller of the story"] = stumble()
    return parts

service.build = build_stumbling
sys.argv = ["suno-videod", "-c", sys.argv[1], "serve"]
from daemon.cli import main
main()
"""
FAULTS = {
    "a blocked loop": "time.sleep(60)",
    "a loop that stopped": "pulse.beat(0.1); await asyncio.Event().wait()",
}


@contextmanager
def running(folder: Path, fault: str) -> Iterator[tuple["subprocess.Popen[str]", socket.socket]]:
    """Run a daemon with this fault in it, and listen as systemd does."""
    config = folder / "config.toml"
    config.write_text(write_toml({"callback": {"listen": ""}, "download": {"directory": "videos"}}))
    heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    heard.bind(str(folder / "notify"))
    heard.settimeout(20)
    watched = {
        "NOTIFY_SOCKET": str(folder / "notify"),
        "WATCHDOG_USEC": str(int(WATCHDOG_SECONDS * 1e6)),
    }
    process = subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-c", STUMBLING.format(fault=fault), str(config)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment(), **watched},
    )
    try:
        yield process, heard
    finally:
        process.kill()
        process.communicate()
        heard.close()


@pytest.mark.parametrize("name", FAULTS)
def test_what_stands_still_is_shown_and_ended(tmp_path: Path, name: str) -> None:
    """No beat comes in the time that systemd gives, and the log has the place by then."""
    with running(tmp_path, FAULTS[name]) as (process, heard):
        while "READY=1" not in heard.recv(4096).decode():
            pass
        fed = time.monotonic()
        heard.settimeout(WATCHDOG_SECONDS)
        while True:
            try:
                words = heard.recv(4096).decode()
            except TimeoutError:
                break
            if "WATCHDOG=1" in words:
                fed = time.monotonic()
            elif time.monotonic() - fed > WATCHDOG_SECONDS:
                break
        assert time.monotonic() - fed >= WATCHDOG_SECONDS - 0.1
        # What systemd does then: systemd.service(5), WatchdogSec.
        process.send_signal(signal.SIGABRT)
        output, errors = process.communicate(timeout=20)
    assert process.returncode == -signal.SIGABRT
    shown = errors + output
    assert "Timeout (" in errors, "the dump came by itself, before the signal"
    assert "stumble" in shown
    assert "Fatal Python error: Aborted" in errors
