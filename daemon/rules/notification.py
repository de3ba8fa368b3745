"""What is told to `[[notify]]`: the events, their bodies, and the words for people.

Rule: a program gets `{"type", "timestamp", "data"}`; a person gets what happened, what it means for
the videos, and what to do.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from daemon.rules.gate_words import explain_gate

EVENTS: Final = (
    *("task.stored", "task.done", "task.failed", "task.lost", "deadline.near"),
    *("gate.closed", "gate.opened", "credits.low", "finish.failed"),
)
"""Everything that a target can be told, in the order in which it is listed."""
TEST: Final = "test"
"""What `test-notify` sends; no target can leave it out."""
TEST_DATA: Final = {"message": "suno-videod can reach you here: nothing happened, nothing to do"}

_CUT: Final = 300
_REFUSED: Final = frozenset({401, 403})
_ABSENT: Final = frozenset({404, 410})
_CLIENT_ERROR: Final = 400
_SERVER_ERROR: Final = 500
_NOTHING: Final = "Nothing to do."


def write_text(event: str, data: Mapping[str, Any]) -> tuple[str, str]:
    """Return the title and the text of an event for a person; `data` is what programs get."""
    return _TEXTS[event](data)


def _of(data: Mapping[str, Any]) -> str:
    label = data.get("label")
    return f"{data['task_id']} ({_cut(label)})" if label else str(data["task_id"])


def _cut(words: object) -> str:
    text = " ".join(str(words).split())
    return text if len(text) <= _CUT else f"{text[:_CUT]}..."


def _why(data: Mapping[str, Any]) -> str:
    said = [str(data[name]) for name in ("reason", "message") if data.get(name)]
    return f" ({_cut(': '.join(said))})" if said else ""


def _stored(data: Mapping[str, Any]) -> tuple[str, str]:
    text = f"Video {_of(data)} is safe on disk{_size(data)}: {data.get('path')}. {_NOTHING}"
    return "Video stored", text


def _done(data: Mapping[str, Any]) -> tuple[str, str]:
    if data.get("finish_error"):
        told = f"a step after it failed: {_cut(data['finish_error'])}"
        text = f"Video {_of(data)} is safe on disk: {data.get('path')}; {told}."
        return "Video done, but a step after it failed", text
    text = f"Video {_of(data)} is safe on disk and finished: {data.get('path')}. {_NOTHING}"
    return "Video done", text


def _failed(data: Mapping[str, Any]) -> tuple[str, str]:
    text = (
        f"The provider says that it made no video for {_of(data)}{_why(data)}. There is nothing to "
        f"fetch. Do: submit it again, or, if you doubt it, suno-videod retry {data['task_id']}."
    )
    return "No video was made", text


def _lost(data: Mapping[str, Any]) -> tuple[str, str]:
    text = (
        f"Video {_of(data)} can no longer be fetched{_why(data)}: what was paid for it is gone "
        f"unless the provider helps. Do: suno-videod retry {data['task_id']} tries once more; "
        "suno-videod report has what the provider's support needs; suno-videod forget "
        f"{data['task_id']} says that you have seen it."
    )
    return "Video lost", text


def _near(data: Mapping[str, Any]) -> tuple[str, str]:
    left = data.get("hours_left")
    text = (
        f"Video {_of(data)} is not on disk yet, and the provider deletes it in about {left} hours"
        f"{_why(data)}. It is tried until then. Do: suno-videod status says what holds it up; "
        f"suno-videod retry {data['task_id']} tries at once."
    )
    return f"Video still missing, {left} hours left", text


def _closed(data: Mapping[str, Any]) -> tuple[str, str]:
    name, reason = str(data["name"]), _cut(data.get("reason"))
    what, means, todo = explain_gate(name)
    means = f"{means[0].upper()}{means[1:]}"
    return f"Gate {name} is shut", f"Gate {name} is shut: {what} ({reason}). {means}. Do: {todo}."


def _opened(data: Mapping[str, Any]) -> tuple[str, str]:
    name = data["name"]
    text = f"Gate {name} is open again: what waited goes on by itself. {_NOTHING}"
    return f"Gate {name} is open", text


def _credits(data: Mapping[str, Any]) -> tuple[str, str]:
    text = (
        f"{data['credits']:g} credits are left, fewer than the {data['limit']:g} of "
        "provider.credits_low. Videos that were paid for are fetched all the same. Do: buy credits "
        "before new videos are refused."
    )
    return "Few credits left", text


def _finish(data: Mapping[str, Any]) -> tuple[str, str]:
    text = (
        f"Video {_of(data)} is safe on disk: {data.get('path')}. A step after it failed for good: "
        f"{_cut(data.get('finish_error'))}. Do: mend the step, then suno-videod show "
        f"{data['task_id']} has the details."
    )
    return "A step after a video failed", text


def _test(data: Mapping[str, Any]) -> tuple[str, str]:
    return "suno-videod: a test", str(data["message"])


def _size(data: Mapping[str, Any]) -> str:
    size_bytes = data.get("size_bytes")
    return "" if size_bytes is None else f" ({size_bytes / (1 << 20):.1f} MiB, checked)"


_TEXTS: Mapping[str, Callable[[Mapping[str, Any]], tuple[str, str]]] = {
    "task.stored": _stored,
    "task.done": _done,
    "task.failed": _failed,
    "task.lost": _lost,
    "deadline.near": _near,
    "gate.closed": _closed,
    "gate.opened": _opened,
    "credits.low": _credits,
    "finish.failed": _finish,
    TEST: _test,
}


def advise(status: int | None, *, web: bool) -> str:
    """Return what to do about a target that did not take an event; `status` is HTTP's."""
    if not web:
        return (
            "check the url of this target (https://appriseit.com describes each service), and that "
            "this machine reaches the service"
        )
    if status is None:
        return "nobody answers: check host and port in its url, and that the receiver runs"
    if status in _REFUSED:
        return "the receiver refuses us: check the token in its url, and its secret"
    if status in _ABSENT:
        return "nothing is there: check the path in its url"
    if status < _CLIENT_ERROR:
        return "redirects are not followed: put the address that it redirects to into its url"
    if status < _SERVER_ERROR:
        return "the receiver does not take this event: look into its log"
    return "the receiver has trouble of its own: look into its log"
