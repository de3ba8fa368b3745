"""An examiner over the parts that a test has."""

from collections.abc import Callable
from pathlib import Path

from daemon.clock import Clock
from daemon.config import load
from daemon.diagnosis import Examiner
from daemon.disk import Disk
from daemon.gates import Gates
from daemon.provider import Provider
from daemon.store import Store
from daemon.submitter import Submitter
from daemon.turnstile import Turnstile

START = 1_790_000_000_000


def make_examiner(
    folder: Path,
    store: Store,
    gates: Gates,
    disk: Disk,
    *,
    provider: Provider,
    submitter: Submitter,
    now: Callable[[], int],
    clock: Clock | None = None,
    has_key: bool = True,
    settings: str = "",
) -> Examiner:
    """Return an examiner; its ledger is the one of `folder`/state."""
    path = folder / "examined.toml"
    key = 'api_key = "key"' if has_key else ""
    path.write_text(
        f'state_dir = "state"\n[provider]\n{key}\n[disk]\nmin_free = "1M"\n'
        f'[download]\ndirectory = "{disk.directory}"\n{settings}'
    )
    config = load(path, {}).config
    return Examiner(
        store=store,
        gates=gates,
        disk=disk,
        provider=provider,
        submitter=submitter,
        clock=clock or Clock(now),
        turnstile=Turnstile(now),
        config=lambda: config,
        now=now,
        started_at=START,
    )
