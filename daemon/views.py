"""What the outside sees of the ledger: the JSON shapes of the admin API.

Rule: field names are a contract, fields are only ever added. Times are ISO 8601 UTC with
milliseconds and `Z`; what is not known is null.
"""

from datetime import UTC, datetime
from typing import Annotated

import msgspec

from daemon.gates import Shut
from daemon.logs import mask
from daemon.rules.lifecycle import State
from daemon.rules.spans import Spans
from daemon.rules.submission import TEXT_LIMIT
from daemon.rules.task import Held, Step, Task


def show_time(at: int | None) -> str | None:
    """Return milliseconds since 1970 as `2026-11-22T08:00:00.000Z`."""
    if at is None:
        return None
    moment = datetime.fromtimestamp(at / 1000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{at % 1000:03d}Z"


PAGE = 100
PAGE_LIMIT = 1_000
IDS_LIMIT = 1_000
LABEL_LIMIT = 200


def _told(**schema: object) -> msgspec.Meta:
    """Return limits for the document; the office keeps them, with words that say what to do."""
    return msgspec.Meta(extra_json_schema=schema)


TaskIds = Annotated[list[str], _told(minItems=1, maxItems=IDS_LIMIT)]
Label = Annotated[str | None, _told(minLength=1, maxLength=LABEL_LIMIT)]
GivenId = Annotated[str, _told(pattern="^[!-~]{1,128}$")]
ShortText = Annotated[str | None, _told(maxLength=TEXT_LIMIT)]
StateNames = tuple[Annotated[str, _told(enum=list(State))], ...]
"""Of a query string: several keys, or commas between."""
Limit = Annotated[int, msgspec.Meta(ge=1, le=PAGE_LIMIT)]
Cursor = Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)]


class TrackRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Tasks that somebody else submitted."""

    task_ids: TaskIds
    label: Label = None


class SubmitRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A video to be made; `check` asks first whether it can be."""

    music_task_id: GivenId
    audio_id: GivenId
    author: ShortText = None
    domain_name: ShortText = None
    label: Label = None
    check: bool = True


class RetryRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Another try; `force` also for what was pruned on purpose."""

    force: bool = False


class PageQuery(msgspec.Struct, frozen=True):
    """Which page; `after` is `next` of the page before it."""

    limit: Limit = PAGE
    after: Cursor | None = None


class TaskQuery(PageQuery, frozen=True):
    """Which tasks."""

    state: StateNames = ()


class BalanceQuery(msgspec.Struct, frozen=True):
    """From when on, in milliseconds since 1970."""

    since: Annotated[int, msgspec.Meta(ge=0, le=1 << 53)] = 0


class TaskView(msgspec.Struct, frozen=True, kw_only=True):
    """A task as the world sees it."""

    task_id: str
    label: str | None
    state: str
    reason: str | None
    message: str | None
    provider_code: int | None
    source: str
    music_task_id: str | None
    audio_id: str | None
    unconfirmed: bool
    created_at: str | None
    updated_at: str | None
    stored_at: str | None
    deadline_at: str | None
    next_attempt_at: str | None
    attempts: int
    callbacks: int
    size_bytes: int | None
    received_bytes: int
    sha256: str | None
    path: str | None
    duration_seconds: float | None
    width: int | None
    height: int | None
    video_codec: str | None
    audio_codec: str | None
    audio_sample_rate: int | None
    finish_error: str | None
    forgotten_at: str | None


def view_task(task: Task) -> TaskView:
    """Return what the outside sees of `task`; the path only once a file stands there."""
    in_place = task.stored_at is not None
    return TaskView(
        task_id=task.task_id,
        label=task.label,
        state=task.state,
        reason=task.reason,
        # The provider's words may repeat a key or a signed link.
        message=None if task.message is None else mask(task.message),
        provider_code=task.provider_code,
        source=task.source,
        music_task_id=task.music_task_id,
        audio_id=task.audio_id,
        unconfirmed=bool(task.unconfirmed),
        created_at=show_time(task.created_at),
        updated_at=show_time(task.updated_at),
        stored_at=show_time(task.stored_at),
        deadline_at=show_time(task.deadline_at),
        next_attempt_at=show_time(task.next_attempt_at),
        attempts=task.attempts,
        callbacks=task.callbacks,
        size_bytes=task.size_bytes,
        received_bytes=Spans.parse(task.spans).total_bytes,
        sha256=task.sha256,
        path=task.path if in_place else None,
        duration_seconds=task.duration_seconds,
        width=task.width,
        height=task.height,
        video_codec=task.video_codec,
        audio_codec=task.audio_codec,
        audio_sample_rate=task.audio_sample_rate,
        finish_error=task.finish_error,
        forgotten_at=show_time(task.forgotten_at),
    )


class StepView(msgspec.Struct, frozen=True, kw_only=True, rename={"before": "from", "after": "to"}):
    """One line of a task's history."""

    at: str | None
    before: str | None
    after: str
    cause: str
    reason: str | None


def view_step(step: Step) -> StepView:
    """Return one line of history."""
    return StepView(
        at=show_time(step.at),
        before=step.before,
        after=step.after,
        cause=step.cause,
        reason=step.reason,
    )


class TaskWithHistory(TaskView, frozen=True, kw_only=True):
    """One task and all that happened to it."""

    history: list[StepView]


def view_history(task: Task, steps: list[Step]) -> TaskWithHistory:
    """Return a task with its history."""
    return TaskWithHistory(
        **msgspec.structs.asdict(view_task(task)), history=[view_step(step) for step in steps]
    )


class TaskPage(msgspec.Struct, frozen=True):
    """A page of tasks, the newest first; `next` is the cursor of the page behind it."""

    tasks: list[TaskView]
    next: str | None


class HistoryPage(msgspec.Struct, frozen=True):
    """A page of tasks with their histories."""

    tasks: list[TaskWithHistory]
    next: str | None


class Balance(msgspec.Struct, frozen=True):
    """What was left of the credits at one moment."""

    at: str
    credits: float


class BalancePage(msgspec.Struct, frozen=True):
    """Balances, the oldest first."""

    credits: list[Balance]


class ChartQuery(msgspec.Struct, frozen=True):
    """How many days, the one of today included."""

    days: Annotated[int, msgspec.Meta(ge=1, le=366)] = 30


class DayView(msgspec.Struct, frozen=True):
    """How much was stored on one day, of UTC."""

    day: str
    videos: int
    bytes: int


class Chart(msgspec.Struct, frozen=True):
    """What came day by day, the oldest first, and how much is in place."""

    days: list[DayView]
    stored_bytes: int


class Rejected(msgspec.Struct, frozen=True):
    """An id that was not taken."""

    id: str
    message: str


class Tracked(msgspec.Struct, frozen=True, omit_defaults=True):
    """What `track` took into the ledger."""

    tasks: list[TaskView]
    rejected: list[Rejected] = msgspec.field(default_factory=list)


class GateView(msgspec.Struct, frozen=True):
    """A gate that is shut."""

    name: str
    since: str | None
    reason: str


def view_gate(shut: Shut) -> GateView:
    """Return a gate that is shut."""
    return GateView(shut.name, show_time(shut.since), mask(shut.reason))


class DiskView(msgspec.Struct, frozen=True):
    """The download folder and its room."""

    directory: str
    free_bytes: int
    min_free_bytes: int


class UndeliveredView(msgspec.Struct, frozen=True):
    """Events that a target was never told: they were given up after three days."""

    target: str
    count: int
    last_error: str | None


class StatusView(msgspec.Struct, frozen=True, kw_only=True):
    """How it stands."""

    counts: dict[str, int]
    oldest_waiting_at: str | None
    next_deadline_at: str | None
    gates: list[GateView]
    disk: DiskView | None
    quarantined: int
    credits: float | None
    provider_answered_at: str | None
    overdue: list[str]
    undelivered: list[UndeliveredView]
    credits_low: float
    """Fewer credits than this are few."""
    unsafe: int
    """What `check` names: tasks, and callbacks in quarantine."""
    oldest_waiting_id: str | None
    next_deadline_id: str | None
    started_at: str | None
    version: str


class TrialView(msgspec.Struct, frozen=True, kw_only=True):
    """What came of sending a test event to one target; `status` is HTTP's."""

    target: str
    delivered: bool
    status: int | None
    seconds: float
    error: str | None
    advice: str | None


class TrialPage(msgspec.Struct, frozen=True):
    """What came of a test event, for every `[[notify]]` in the order of the configuration."""

    targets: list[TrialView]


class HeldView(msgspec.Struct, frozen=True, kw_only=True):
    """A callback in quarantine; bytes that are no UTF-8 are spelled out in `body`."""

    id: str
    received_at: str | None
    reason: str
    remote: str | None
    content_type: str | None
    size_bytes: int
    copies: int
    body: str
    forgotten_at: str | None


def view_held(held: Held) -> HeldView:
    """Return a quarantined callback."""
    return HeldView(
        id=held.id,
        received_at=show_time(held.received_at),
        reason=held.why,
        remote=held.remote,
        content_type=held.content_type,
        size_bytes=len(held.body),
        copies=held.copies,
        # It may hold a signed link or one of our own keys.
        body=mask(held.body.decode("utf-8", "backslashreplace")),
        forgotten_at=show_time(held.forgotten_at),
    )


class HeldPage(msgspec.Struct, frozen=True):
    """A page of the quarantine, the newest first."""

    quarantine: list[HeldView]
    next: str | None


class Problem(msgspec.Struct, frozen=True):
    """What went wrong, for programs and for people."""

    code: str
    message: str


class ProblemView(msgspec.Struct, frozen=True):
    """The body of every error."""

    error: Problem
