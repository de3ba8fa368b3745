"""How it stands, in words: what `status` prints.

Rule: the first line is the answer to the one question; every line below says what is, what it means
for the videos where that is not plain, and what to do where something can be done.
"""

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Final

import click

from daemon.rules.gate_words import explain_gate
from daemon.wording import age, size, text

Row = Mapping[str, Any]

INDENT: Final = 17
_COLUMNS: Final = 80


def describe_standing(status: Row) -> Iterator[tuple[str, str, str]]:
    """Yield what there is to say: a name, a sentence, and `good`, `bad`, `warn` or nothing."""
    yield _answer(status)
    counts = [f"{count} {state}" for state, count in status["counts"].items() if count]
    yield "tasks", ", ".join(counts) or "none yet", ""
    yield "oldest waiting", _whose(status, "oldest_waiting"), ""
    yield "next deadline", _whose(status, "next_deadline"), ""
    for told in status["overdue"]:
        yield "overdue", text(told), "bad"
    for gate in status["gates"]:
        yield "gate shut", _gate(gate), "warn"
    for one in status.get("undelivered", ()):
        yield "not told", _explain_undelivered(one), "warn"
    yield _quarantined(status["quarantined"])
    yield _disk(status["disk"])
    yield _credits(status)
    answered = status["provider_answered_at"]
    yield "provider", f"last answer {age(answered)}" if answered else "no answer yet", ""
    started = status.get("started_at")
    if started:
        yield "daemon", f"version {text(status.get('version'))}, started {age(started)}", ""


def _explain_undelivered(one: Row) -> str:
    todo = (
        "mend the receiver, then suno-videod test-notify, which clears this line when it is heard"
        if one["target"].startswith("notify[")
        else "see that it asks about its tasks itself; this line goes after 30 days"
    )
    return (
        f"{one['count']} events to {text(one['target'])} were given up after 3 days "
        f"({text(one['last_error'])}); no video is touched by it: {todo}"
    )


def _answer(status: Row) -> tuple[str, str, str]:
    unsafe, held = status.get("unsafe"), status["quarantined"]
    if not unsafe:
        told = "safe: everything that was paid for is on disk or was refused by the provider"
        return "", told, "good"
    videos = unsafe - held
    parts = [_count(videos, "video")] if videos else []
    parts += [_count(held, "callback")] if held else []
    verb = "is" if unsafe == 1 else "are"
    told = f"{' and '.join(parts)} {verb} not safe yet: suno-videod check says which"
    return "", told, "bad" if status["overdue"] else "warn"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _whose(status: Row, name: str) -> str:
    at, task_id = status[f"{name}_at"], status.get(f"{name}_id")
    return age(at) if at is None or task_id is None else f"{age(at)}, {text(task_id)}"


def _gate(gate: Row) -> str:
    name = str(gate["name"])
    words = explain_gate(name)
    why = f"{text(name)}, {age(gate['since'])}: {text(gate['reason'])}"
    return f"{why}. This means: {words.means}. Do: {words.do}"


def _quarantined(held: int) -> tuple[str, str, str]:
    if not held:
        return "quarantined", "0", ""
    told = (
        f"{held}: acknowledged, kept and not understood, so nothing comes of them: look at them "
        "with `list --state quarantined` and `show`, track what is a video, then `forget` them"
    )
    return "quarantined", told, "warn"


def _disk(disk: Row | None) -> tuple[str, str, str]:
    if disk is None:
        return "disk", "the download folder cannot be read: mend it, downloads wait", "bad"
    free, least = size(disk["free_bytes"]), size(disk["min_free_bytes"])
    told = f"{free} free in {text(disk['directory'])} (downloads stop at {least})"
    return "disk", told, "bad" if disk["free_bytes"] < disk["min_free_bytes"] else ""


def _credits(status: Row) -> tuple[str, str, str]:
    known, limit = status["credits"], status.get("credits_low")
    if known is None:
        return "credits", "unknown", ""
    if known <= 0 or (limit and known < limit):
        return "credits", f"{known:g}: low, buy some before the next submit", "warn"
    return "credits", f"{known:g}", ""


_COLOURS: Final = {"good": "green", "bad": "red", "warn": "yellow"}


def show_status(status: Row, columns: int | None = None, *, colours: bool = False) -> None:
    """Print how it stands; in `columns`, where it is for a terminal, with a hanging indent."""
    for name, told, mood in describe_standing(status):
        head = f"{name}:".ljust(INDENT) if name else ""
        colour = _COLOURS.get(mood) if colours else None
        for number, line in enumerate(_wrap(told, head, columns)):
            if number:
                click.echo(" " * len(head) + click.style(line, fg=colour), color=colours)
            else:
                click.echo(head + click.style(line, fg=colour), color=colours)


def _wrap(told: str, head: str, columns: int | None) -> list[str]:
    if columns is None:
        return [told]
    width = max(20, columns - len(head))
    return textwrap.wrap(told, width, break_on_hyphens=False, break_long_words=False) or [""]
