"""An examiner, and a submitter, over the parts that a test has."""

from collections.abc import Callable
from pathlib import Path

from daemon.clock import Clock
from daemon.config import load
from daemon.diagnosis import Examiner
from daemon.disk import Disk
from daemon.gates import Gates
from daemon.outbound import Session
from daemon.provider import Provider
from daemon.rules.address import AddressPolicy
from daemon.rules.schedule import Pace
from daemon.rules.verdict import Terms
from daemon.store import Store
from daemon.submitter import Submitter
from daemon.turnstile import Turnstile

START = 1_790_000_000_000


WEEK = 7 * 86_400_000
TERMS = Terms(Pace(1000, 1000, 1000), 1000, 1000, has_key=True)


def make_submitter(
    store: Store,
    provider: Provider,
    files: Session,
    gates: Gates,
    *,
    policy: AddressPolicy,
    now: Callable[[], int],
) -> Submitter:
    """Return a submitter that knows a public address and wakes nobody."""
    return Submitter(
        *(store, provider, files, gates),
        policy=lambda: policy,
        terms=lambda: TERMS,
        retention_ms=lambda: WEEK,
        callback_url=lambda: "https://mv.example.com/video-callback/token",
        now=now,
        ring=lambda: None,
        ring_credits=lambda: None,
    )


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
