"""What is known of one task, and what happens to it.

Rule: the fields of `Task` are the columns of its table, in order; the store is the only one that
makes such a value, everybody else reads it. Times are milliseconds since 1970 UTC.
"""

from dataclasses import dataclass, fields
from typing import Final, NamedTuple

from daemon.rules.lifecycle import ASKING, Cause, State

INTENT_PREFIX: Final = "submit-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One task of the ledger."""

    id: int
    """Grows with every adoption: the order of `list`."""
    task_id: str
    label: str | None
    state: str
    previous_state: str | None
    cause: str
    version: int
    """Grows with every change, so that a decision is never applied to a newer row."""
    reason: str | None
    message: str | None
    provider_code: int | None
    source: str
    music_task_id: str | None
    audio_id: str | None

    link: str | None
    """The newest link that we trust."""
    hint: str | None
    """The newest link that only a callback told."""
    hint_at: int | None
    unconfirmed: int
    """1: the file comes from a link that the provider never confirmed."""

    created_at: int
    updated_at: int
    stored_at: int | None
    deadline_at: int
    forgotten_at: int | None

    ask_at: int | None
    """When the next question is due."""
    asked_since: int | None
    """When the present series of questions began."""
    ask_pause_ms: int
    answered_at: int | None
    unanswered_since: int | None
    denials: int
    denied_at: int | None
    questions: int
    """Questions after the deadline that brought no working link."""
    questioned_at: int | None

    fetch_at: int | None
    """When the next download step is due; of a submit without an id, when it is sent."""
    claimed_at: int | None
    attempts: int
    failures: int
    """Failed download attempts in a row."""
    refusals: int
    """Refusals of the link in a row."""
    refusal_proofs: int
    refusal_proved_at: int | None
    spoils: int
    """How often in a row the host served the same bad content."""
    spoiled_sha256: str | None
    callbacks: int

    size_bytes: int | None
    spans: str
    """The byte ranges of the partial file that are on disk (`rules/spans`)."""
    validator: str | None
    sha256: str | None
    path: str | None
    duration_seconds: float | None
    width: int | None
    height: int | None
    video_codec: str | None
    audio_codec: str | None
    audio_sample_rate: int | None
    finish_error: str | None

    fresh_link: str | None
    """A short-lived link in place of `link`, for the next attempt alone."""
    warnings: int
    """How often somebody was warned that its deadline is near."""

    @property
    def next_link(self) -> str:
        """What the next attempt fetches; a task without a link is never fetched."""
        return self.fresh_link or self.link or ""

    @property
    def has_local_id(self) -> bool:
        """Whether it is a submit whose task id is not known: the provider is never asked of it."""
        return self.task_id.startswith(INTENT_PREFIX)

    @property
    def next_attempt_at(self) -> int | None:
        """When something happens next: a submit is sent, a question, or a download step."""
        if self.has_local_id:
            return self.fetch_at
        return self.ask_at if self.state in ASKING else self.fetch_at

    @property
    def known_as_missing(self) -> bool:
        """Whether it failed only because the provider denied it: it is still asked about."""
        return self.state == State.FAILED and self.reason == "unknown_task"


COLUMNS = tuple(field.name for field in fields(Task))


@dataclass(frozen=True, slots=True)
class Move:
    """A task came to another state; `before` is None when it was not known."""

    before: str | None
    task: "Task | Received"


class Tidings(NamedTuple):
    """What a callback brings to the ledger, decided and waiting for its commit.

    A tuple, for its fields, in this order, are what the statement reads (`statements.RECEIVE`).
    """

    task_id: str
    cause: Cause
    now: int
    deadline_at: int
    ask_at: int | None
    link: str | None = None
    hint: str | None = None
    reason: str | None = None
    message: str | None = None
    code: int | None = None


class Received(NamedTuple):
    """What became of a task by a callback: its fields are the columns that the statement returns.

    The whole row costs as much as the rest of an acknowledgement, and nobody reads it.
    """

    task_id: str
    state: str
    previous_state: str | None
    cause: str
    reason: str | None
    callbacks: int


@dataclass(frozen=True, slots=True)
class Step:
    """One line of a task's history."""

    at: int
    before: str | None
    after: str
    cause: str
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unread:
    """A callback that cannot be read, waiting for its commit."""

    body: bytes
    why: str
    remote: str
    content_type: str
    now: int


@dataclass(frozen=True, slots=True)
class Held:
    """A callback in quarantine."""

    number: int
    id: str
    received_at: int
    why: str
    remote: str | None
    content_type: str | None
    copies: int
    body: bytes
    forgotten_at: int | None


@dataclass(frozen=True, slots=True)
class Due:
    """A download step that is due."""

    id: int
    task_id: str
    deadline_at: int
    failing: int
    """1: it failed before and its deadline is not near."""
