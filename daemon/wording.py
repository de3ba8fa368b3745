"""The words for people: what a state means for a video, and what there is to do.

Rule: there is one wording, for the command line and the dashboard alike. A task is a mapping with
the names of the admin API; the text comes back plain, and who shows it spells out what is foreign.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import humanize

from daemon.rules.redaction import escape_control

Row = Mapping[str, Any]

_SOON = timedelta(hours=72)
_BY_HAND = "fetch it by hand from your account there, if you can"

_TROUBLE: Mapping[str, str] = {
    "disk": "the link is known; it waits for room on the disk: suno-videod status",
    "too_large": "it is longer than download.max_size allows: raise that, then reload",
    "address_refused": (
        "its link leads where nothing may be dialled: see download.allowed_hosts, allow_http and "
        "allow_private"
    ),
}
"""What keeps a link from being fetched and does not go away by itself."""
_NEXT_STEP: Mapping[str, str] = {
    "expected": "the provider is asked about it; nothing to do",
    "wanted": "the link is known and is fetched; nothing to do",
    "verified": "every byte is checked; it gets its name in a moment",
    "stored": "the file is in place; finishing steps are pending",
    "done": "safe on disk",
    "failed": "the provider made no video; `retry` asks again",
    "lost": "it can no longer be fetched; `retry` tries once more",
    "pruned": "removed by the retention policy",
}


def size(size_bytes: int | None) -> str:
    """Return a size for people, in powers of 1024 as the configuration has them."""
    return "-" if size_bytes is None else humanize.naturalsize(size_bytes, gnu=True)


def age(text: str | None, now: datetime | None = None) -> str:
    """Return how long ago, or in how long, a time of the API is."""
    if text is None:
        return "-"
    moment = datetime.fromisoformat(text)
    return humanize.naturaltime(moment, when=now or datetime.now(UTC))


def text(value: object) -> str:
    """Return a value as one line that a terminal can show."""
    return "-" if value is None else escape_control(str(value))


def is_submit(task: Row) -> bool:
    """Tell whether it is a submit of which the provider's id is not known."""
    return bool(task["task_id"].startswith("submit-"))


def is_open_submit(task: Row) -> bool:
    """Tell whether it is a submit that may still become a video."""
    return bool(task["state"] == "expected" and is_submit(task))


def needs_person(task: Row) -> bool:
    """Tell whether nothing goes on by itself any more."""
    return is_open_submit(task) and task["next_attempt_at"] is None


def explain_open(task: Row) -> str:
    """Say what is known of a submit without an id, and what to do."""
    told = f" ({text(task['message'])})" if task["message"] else ""
    if not needs_person(task):
        return f"not sent yet, or to be sent again{told}; it goes on by itself"
    return (
        f"nobody knows whether the provider makes this video{told}: look for it in the log of your "
        f"account there. If it is there: track its id, then forget {task['task_id']}. If not: "
        f"retry {task['task_id']}"
    )


def explain(task: Row) -> str:
    """Say what the state of a task means."""
    if task["forgotten_at"] is not None:
        return "somebody has seen it, and nobody is asked any more; `retry` changes that"
    if is_open_submit(task):
        return explain_open(task)
    if task["reason"] == "unknown_task":
        return "the provider says that there is no such task; check the id"
    if task["state"] == "expected" and task["next_attempt_at"] is None:
        return "without provider.api_key nobody can be asked: it waits for a callback"
    if task["state"] == "wanted" and task["reason"] in _TROUBLE:
        return _TROUBLE[task["reason"]]
    return _NEXT_STEP[task["state"]]


def explain_unsafe(task: Row) -> str:
    """Say why a task is not safe."""
    why = explain(task)
    # Of an open submit, `why` has the message in it.
    if task["message"] and not is_open_submit(task):
        why = f"{why}; last trouble: {task['message']}"
    remaining = _remaining(task)
    # Near the deadline there is something to do.
    return f"{why.replace('; nothing to do', '')}{remaining}" if remaining else why


def _remaining(task: Row) -> str:
    """Say how long the provider still keeps a video, where that is not long any more."""
    left = datetime.fromisoformat(task["deadline_at"]) - datetime.now(UTC)
    if task["state"] not in {"expected", "wanted", "verified"} or left > _SOON:
        return ""
    if left < timedelta(0):
        return f"; the provider may have deleted it by now: {_BY_HAND}"
    return f"; the provider deletes it in about {humanize.naturaldelta(left)}: {_BY_HAND}"
