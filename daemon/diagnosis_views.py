"""What the running daemon knows of itself: the JSON shapes of a diagnosis.

Rule: facts and no opinions; whoever asks judges them. Field names are a contract, fields are only
ever added. Times are ISO 8601 UTC with milliseconds and `Z`; what is not known is null.
"""

from typing import Any

import msgspec

from daemon.views import GateView, TaskView


class ListenerView(msgspec.Struct, frozen=True):
    """An open listener."""

    name: str
    address: str
    passed: bool
    """By systemd, which keeps it over a restart."""


class CertificateView(msgspec.Struct, frozen=True, kw_only=True):
    """The certificate that callbacks are served with, where no proxy does that."""

    path: str
    not_after: str | None
    days_left: float | None


class TallyView(msgspec.Struct, frozen=True):
    """How often callbacks were answered for one cause in the last 24 hours."""

    cause: str
    count: int
    last_at: str | None
    remote: str | None


class QuestionView(msgspec.Struct, frozen=True, kw_only=True):
    """One question to the provider: `asked` false says in `message` why nobody asked."""

    asked: bool
    outcome: str | None = None
    seconds: float | None = None
    credits: float | None = None
    message: str | None = None
    base_url: str = ""


class SpeedView(msgspec.Struct, frozen=True, kw_only=True):
    """How fast bytes come to a disk, written and synced; `error` says why they did not."""

    size_bytes: int
    seconds: float | None = None
    error: str | None = None


class FolderView(msgspec.Struct, frozen=True, kw_only=True):
    """A folder, its disk, and what a test file in it came to."""

    path: str
    free_bytes: int | None = None
    min_free_bytes: int | None = None
    free_inodes: int | None = None
    """Null also where the file system does not count them."""
    speed: SpeedView | None = None
    """Null: not tried, for there is no room."""
    error: str | None = None


class PlaceView(msgspec.Struct, frozen=True, kw_only=True):
    """A file or folder of ours: who may do what with it. Modes are octal."""

    path: str
    mode: str | None
    most: str
    """The widest mode that is safe."""
    own: bool
    writable: bool


class LedgerView(msgspec.Struct, frozen=True, kw_only=True):
    """The ledger; `damage` is null when nothing was found in `checked` time."""

    path: str
    size_bytes: int | None
    log_bytes: int | None
    checked: bool
    damage: str | None
    backed_up_at: str | None = None
    """When `backup` last made a copy; null when that is not known."""


class LeftoverView(msgspec.Struct, frozen=True):
    """Files that belong to no task of the ledger any more, and callbacks that nobody has seen."""

    files: int
    size_bytes: int
    names: list[str]
    quarantined: int


class DiagnosisView(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that only the running daemon knows."""

    version: str
    interpreter: str
    python: str
    pid: int
    user: str
    started_at: str | None
    listeners: list[ListenerView]
    certificate: CertificateView | None
    callbacks: list[TallyView] | None
    """The newest cause first; null when the ledger cannot be read."""
    trouble: list[dict[str, Any]]
    """The last warnings and errors of the log since the start."""
    provider: QuestionView
    has_key: bool
    clock_off_seconds: float | None
    videos: FolderView
    state: FolderView
    places: list[PlaceView]
    ledger: LedgerView
    leftovers: LeftoverView | None
    loop_lag_seconds: float
    gates: list[GateView]
    overdue: list[str] | None
    seconds: float
    """How long the diagnosis took."""


class CallbackTestView(msgspec.Struct, frozen=True):
    """What became of a test callback that reached this daemon."""

    nonce: str
    received_at: str | None
    cause: str
    remote: str
    path: str
    """As it came, without the token."""


class TaskDiagnosisView(msgspec.Struct, frozen=True, kw_only=True):
    """One task, what the provider says about it now, and whether its song is there."""

    task: TaskView
    last_step_at: str | None
    answered_at: str | None
    provider: QuestionView
    evidence: str | None
    """What the provider's record proves: none, pending, failure or success."""
    has_link: bool
    code: int | None
    source_checked: bool
    """Whether the music task and its audio could be looked at."""
    objection: str | None
    author: str | None
    domain_name: str | None
    gates: list[GateView]
    refused_links: int = 0
    """How many links the file host has refused."""
