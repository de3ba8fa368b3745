"""How long the provider still keeps a video that is not here: said before it is too late."""

from datetime import UTC, datetime, timedelta

import pytest

from daemon.wording import explain, explain_unsafe


@pytest.mark.parametrize(
    ("hours", "state", "told"),
    [
        (73, "wanted", ""),
        (71.5, "wanted", "; the provider deletes it in about 2 days"),
        (2.5, "expected", "; the provider deletes it in about 2 hours"),
        (-1, "verified", "; the provider may have deleted it by now"),
        (-1, "lost", ""),
    ],
)
def test_a_near_deadline_is_part_of_why_something_is_unsafe(
    hours: float, state: str, told: str
) -> None:
    """From 72 hours on, of what can still be fetched."""
    task = {
        "task_id": "a",
        "state": state,
        "message": None,
        "reason": None,
        "forgotten_at": None,
        "next_attempt_at": "2026-11-22T08:00:00.000Z",
        "deadline_at": (datetime.now(UTC) + timedelta(hours=hours)).isoformat(),
    }
    why = explain_unsafe(task)
    assert told in why
    assert ("by hand" in why) == bool(told)
    if told:
        assert "nothing to do" not in why
    assert ("provider deletes" in why or "may have" in why) == bool(told)


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("disk", "waits for room on the disk"),
        ("too_large", "raise that, then reload"),
        ("address_refused", "download.allowed_hosts"),
        ("network", "nothing to do"),
    ],
)
def test_trouble_that_stays_is_not_called_nothing_to_do(reason: str, told: str) -> None:
    """What only a person can mend is said with how; what goes away by itself is not."""
    task = {"task_id": "a", "state": "wanted", "reason": reason, "forgotten_at": None}
    said = explain(task | {"next_attempt_at": "2026-11-22T08:00:00.000Z"})
    assert told in said
    assert ("nothing to do" in said) == (reason == "network")
