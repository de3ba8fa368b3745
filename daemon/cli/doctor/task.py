"""The generation checks for one task: known, made, its song, its deadline, what comes next.

Rule: the provider's record is looked at and not acted on; the daemon asks by itself when it is due.
"""

from datetime import UTC, datetime, timedelta
from typing import Final

from daemon.cli.doctor.findings import Group, Sheet
from daemon.cli.group import Exit
from daemon.diagnosis_views import TaskDiagnosisView
from daemon.rules.gate_words import explain_gate
from daemon.rules.submission import TEXT_LIMIT
from daemon.wording import age, explain, size

_NEAR: Final = timedelta(hours=72)
_SAFE: Final = frozenset({"stored", "done", "pruned"})
_OPEN: Final = frozenset({"expected", "wanted", "verified"})
_OFTEN: Final = 3
"""One link or two grow old between answer and download."""


def judge_task(sheet: Sheet, found: TaskDiagnosisView) -> None:
    """Note what is to be said of one task."""
    _judge_state(sheet, found)
    _judge_record(sheet, found)
    _judge_song(sheet, found)
    _judge_texts(sheet, found)
    _judge_download(sheet, found)


def _judge_state(sheet: Sheet, found: TaskDiagnosisView) -> None:
    task = found.task
    told = f"{task.task_id} is {task.state}" + (f" ({task.reason})" if task.reason else "")
    meaning = explain(_row(found))
    said = f"; last word: {task.message}" if task.message else ""
    text = f"{told}, in the ledger since {age(task.created_at)}: {meaning}{said}"
    if task.state in _SAFE or task.forgotten_at:
        sheet.ok(Group.GENERATION, "ledger", text)
    elif task.state in {"failed", "lost"}:
        sheet.fail(
            Group.GENERATION,
            "ledger",
            text,
            f"try again: suno-videod retry {task.task_id}; or say that you have seen it: "
            f"suno-videod forget {task.task_id}",
            Exit.FAILED,
        )
    else:
        sheet.ok(Group.GENERATION, "ledger", text)


def _row(found: TaskDiagnosisView) -> dict[str, object]:
    names = found.task.__struct_fields__
    return {name: getattr(found.task, name) for name in names}


def _judge_record(sheet: Sheet, found: TaskDiagnosisView) -> None:
    asked, group, check = found.provider, Group.GENERATION, "provider"
    if not asked.asked:
        sheet.skip(group, check, f"not asked: {asked.message}")
        return
    said = f" ({asked.message})" if asked.message and asked.message != "success" else ""
    match asked.outcome, found.evidence:
        case "answered", "success":
            sheet.ok(group, check, f"it has the video, and a link to it{said}")
        case "answered", "failure":
            sheet.fail(
                group,
                check,
                f"it made no video, code {found.code}{said}; what such a video cost is given back "
                "by most providers",
                "see the provider's words; submit it again when its cause is gone",
                Exit.FAILED,
            )
        case "answered", _:
            sheet.ok(group, check, f"it is still being made, or not final yet{said}")
        case "unknown", _:
            sheet.fail(
                group,
                check,
                f"it knows no such task: the id is wrong, or of another account{said}",
                f"compare the id with your account there; drop it with: suno-videod forget "
                f"{found.task.task_id}",
                Exit.FAILED,
            )
        case "key", _:
            sheet.fail(
                group,
                check,
                f"the API key is refused{said}: nobody can be asked about your videos",
                explain_gate("key").do,
                Exit.ACCOUNT,
            )
        case _:
            sheet.fail(
                group,
                check,
                f"no usable answer{said}. Nothing is lost: it is asked again",
                "wait; if it stays so, see whether provider.base_url is right: suno-videod doctor",
                Exit.TRANSIENT,
            )


def _judge_song(sheet: Sheet, found: TaskDiagnosisView) -> None:
    task, check = found.task, "song"
    if not (task.music_task_id and task.audio_id):
        sheet.skip(Group.GENERATION, check, "its music task is not known: it was made elsewhere")
    elif not found.source_checked:
        sheet.skip(Group.GENERATION, check, "the provider cannot be asked now")
    elif found.objection is not None:
        note = sheet.warn if found.task.state in _SAFE else sheet.fail
        note(
            Group.GENERATION,
            check,
            f"{found.objection}: no new video can be made of it",
            "make the song again, then submit a video of the new one",
        )
    else:
        sheet.ok(
            Group.GENERATION,
            check,
            f"track {task.audio_id} belongs to music task {task.music_task_id}, nothing against it",
        )


def _judge_texts(sheet: Sheet, found: TaskDiagnosisView) -> None:
    for check, text in (("author", found.author), ("domainName", found.domain_name)):
        if text is None:
            continue
        told = f"{len(text)} of {TEXT_LIMIT} characters"
        if len(text) > TEXT_LIMIT:
            sheet.fail(Group.GENERATION, check, f"{told}: the provider refuses it", "shorten it")
        else:
            sheet.ok(Group.GENERATION, check, told)


def _judge_download(sheet: Sheet, found: TaskDiagnosisView) -> None:
    task, group = found.task, Group.DOWNLOAD
    if task.state in _SAFE:
        sheet.ok(group, "file", f"{task.path}, {size(task.size_bytes)}")
        return
    told = (
        f"{task.attempts} downloads begun, {task.callbacks} callbacks heard, the provider's last "
        f"answer {age(found.answered_at)}, next step {age(task.next_attempt_at)}"
    )
    sheet.ok(group, "attempts", told)
    if task.state in _OPEN and found.refused_links >= _OFTEN:
        sheet.warn(
            group,
            "link",
            f"the host refused {found.refused_links} links of the provider, one after the other. "
            "A fresh one is asked for each time, until the deadline",
            "wait; if it stays so for hours, write to the provider's support with this task id "
            "(suno-videod report)",
        )
    for gate in found.gates:
        sheet.warn(
            group, "gate", f"{gate.name} is shut: {gate.reason}; it waits", "suno-videod doctor"
        )
    if task.deadline_at is None or task.state not in _OPEN:
        return
    left = datetime.fromisoformat(task.deadline_at) - datetime.now(UTC)
    shown = f"the provider deletes it {age(task.deadline_at)}"
    if left < _NEAR:
        sheet.warn(
            group,
            "deadline",
            f"{shown}, or has done so" if left < timedelta(0) else shown,
            f"fetch it by hand from your account there, or: suno-videod retry {task.task_id}",
        )
    else:
        sheet.ok(group, "deadline", shown)
