"""Why a step did not succeed, and what that means for the task.

Rule: the class says what happens next, `reason` says why in one closed vocabulary, `message` says
it to a person. A failure is never a bug: bugs are other exceptions, and nobody catches those.

    StepFailed
      Trouble    the network or the host had a bad moment: again later, bytes kept
        Unreached  likewise, and nothing was sent
      Refused    the link is not served, or may not be dialled: ask for a fresh one
      Spoiled    bytes came and are not the film: drop them, fetch from the start
      Hindered   our own machine is in the way (disk): a gate closes, no attempt is charged
"""

from enum import StrEnum


class Reason(StrEnum):
    """The one vocabulary of failure: database column, log field, metric label and filter."""

    BAD_REQUEST = "bad_request"
    UNAUTHORIZED = "unauthorized"
    OUT_OF_CREDITS = "out_of_credits"
    SOURCE_AUDIO = "source_audio"
    PROVIDER_ERROR = "provider_error"
    CREATE_FAILED = "create_failed"
    GENERATE_FAILED = "generate_failed"
    UNKNOWN_TASK = "unknown_task"
    LINK_REFUSED = "link_refused"
    ADDRESS_REFUSED = "address_refused"
    TOO_LARGE = "too_large"
    NOT_A_VIDEO = "not_a_video"
    TRUNCATED = "truncated"
    DAMAGED = "damaged"
    STALLED = "stalled"
    NETWORK = "network"
    DISK = "disk"
    DEADLINE = "deadline"
    FINISH = "finish"


class StepFailed(Exception):
    """A step ended without success; the subclass decides what happens next."""

    def __init__(self, reason: Reason, message: str) -> None:
        # Headers may hold any bytes, which aiohttp hands on as surrogates; no database takes those.
        told = message.encode("utf-8", "backslashreplace").decode()
        super().__init__(told)
        self.reason = reason
        self.message = told


class Trouble(StepFailed):
    """Again later; the bytes that are on disk stay. `retry_after` in seconds is the host's wish."""

    def __init__(self, reason: Reason, message: str, retry_after: float | None = None) -> None:
        super().__init__(reason, message)
        self.retry_after = retry_after


class Unreached(Trouble):
    """Trouble before anything was sent: certainly nothing happened at the other side."""


class Refused(StepFailed):
    """The link is dead or forbidden: a fresh one is asked for."""


class Spoiled(StepFailed):
    """The content is not the film that was announced: the bytes on disk are worthless.

    `sha256` tells whether the host serves the same bad content again; None where it was not read.
    """

    def __init__(self, reason: Reason, message: str, sha256: str | None = None) -> None:
        super().__init__(reason, message)
        self.sha256 = sha256


class Hindered(StepFailed):
    """Our own disk is in the way: no attempt is charged, the disk gate closes."""
