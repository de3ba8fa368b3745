"""Every event has words that say what happened, what it means, and what to do."""

from typing import Any

import pytest

from daemon.rules.notification import EVENTS, TEST, TEST_DATA, advise, write_text

TASK: dict[str, Any] = {
    "task_id": "abc",
    "label": "my song",
    "reason": "deadline",
    "message": "no link",
    "path": "/var/lib/suno-videod/videos/video_abc.mp4",
    "size_bytes": 3 << 20,
    "finish_error": "exit 1",
    "hours_left": 23.9,
}
GATE: dict[str, Any] = {"name": "key", "since": None, "reason": "HTTP 401"}
WORDS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "task.stored": (TASK, ("Video stored", "abc (my song)", "safe on disk (3.0 MiB", TASK["path"])),
    "task.done": (TASK | {"finish_error": None}, ("Video done", "finished", "Nothing to do")),
    "task.failed": (TASK, ("No video was made", "deadline: no link", "Do:", "retry abc")),
    "task.lost": (TASK, ("Video lost", "no longer be fetched", "Do:", "report", "forget abc")),
    "deadline.near": (TASK, ("23.9 hours left", "not on disk yet", "Do:", "retry abc")),
    "gate.closed": (
        GATE,
        ("Gate key is shut", "refuses the API key (HTTP 401)", "Nothing is lost", "Do:"),
    ),
    "gate.opened": (GATE, ("Gate key is open", "goes on by itself", "Nothing to do")),
    "credits.low": (
        {"credits": 12.0, "limit": 20},
        ("Few credits left", "12 credits", "20", "Do: buy"),
    ),
    "finish.failed": (TASK, ("safe on disk", "failed for good: exit 1", "Do:", "show abc")),
    TEST: (dict(TEST_DATA), ("a test", "nothing happened, nothing to do")),
}


@pytest.mark.parametrize("event", [*EVENTS, TEST])
def test_every_event_says_what_it_means_and_what_to_do(event: str) -> None:
    """Title and text together hold the facts, and no value that is missing."""
    data, words = WORDS[event]
    title, text = write_text(event, data)
    for word in words:
        assert word in f"{title}\n{text}"
    assert "None" not in text
    assert "\n" not in title
    assert len(title) < 60


@pytest.mark.parametrize("name", ["key", "credits", "rate", "maintenance", "api", "disk"])
def test_every_gate_has_words_of_its_own(name: str) -> None:
    """None of them means that a video is lost."""
    _, text = write_text("gate.closed", {"name": name, "reason": "why"})
    assert text.startswith(f"Gate {name} is shut: ")
    assert "Nothing is lost" in text
    assert "one kind of work" not in text


def test_a_host_and_an_unknown_gate_have_words_too() -> None:
    """A gate that is new some day breaks no message."""
    _, text = write_text("gate.closed", {"name": "host:cdn.example.com", "reason": "down"})
    assert "cdn.example.com does not deliver its videos (down)" in text
    _, text = write_text("gate.closed", {"name": "new", "reason": "why"})
    assert "opens by itself" in text


def test_what_is_missing_leaves_no_hole() -> None:
    """A task without label, reason, size or message is told as well; long words are cut."""
    bare = dict.fromkeys(TASK) | {"task_id": "abc", "path": "/v/abc.mp4"}
    for event in ("task.stored", "task.failed", "task.lost"):
        assert "None" not in write_text(event, bare)[1]
    assert len(write_text("task.failed", TASK | {"message": "x" * 5_000})[1]) < 700
    broken = write_text("task.done", TASK)
    assert "exit 1" in broken[1]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (None, "nobody answers"),
        (302, "redirects are not followed"),
        (401, "token"),
        (403, "secret"),
        (404, "path"),
        (410, "path"),
        (422, "its log"),
        (500, "trouble of its own"),
    ],
)
def test_each_refusal_has_its_advice(status: int | None, words: str) -> None:
    """Where the mistake lies can be told from the status."""
    assert words in advise(status, web=True)
    assert "url" in advise(None, web=False)
