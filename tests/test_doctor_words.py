"""How findings are judged and shown, without a daemon."""

import msgspec
import pytest

from daemon.cli.doctor.findings import Group, Sheet, Verdict, show
from daemon.cli.doctor.machine import judge_unit, read_properties
from daemon.cli.doctor.task import judge_task
from daemon.cli.group import Exit
from daemon.config.secret import Secret
from daemon.diagnosis_views import QuestionView, TaskDiagnosisView
from daemon.views import TaskView

SERVICE = """LoadState=loaded
ActiveState=active
SubState=running
UnitFileState=enabled
Result=success
ExecStart={ path=/bin/sh ; argv[]=/bin/sh -c true ; ignore_errors=no ; pid=0 ; status=0/0 }
"""
SOCKET = "LoadState=loaded\nActiveState=active\n"


@pytest.mark.parametrize(
    ("codes", "code"),
    [
        ([], 0),
        ([Exit.TRANSIENT], 6),
        ([Exit.TRANSIENT, Exit.UNEXPECTED], 1),
        ([Exit.UNEXPECTED, Exit.DISK], 9),
        ([Exit.DISK, Exit.ACCOUNT], 4),
        ([Exit.ACCOUNT, Exit.CONFIGURATION, Exit.DISK], 3),
    ],
)
def test_the_exit_code_is_by_the_worst_line(codes: list[Exit], code: int) -> None:
    """What a person has to mend first decides; warnings alone are 0."""
    sheet = Sheet()
    sheet.ok(Group.MACHINE, "a", "fine")
    sheet.warn(Group.MACHINE, "b", "so so", "look")
    sheet.skip(Group.MACHINE, "c", "not there")
    for one in codes:
        sheet.fail(Group.MACHINE, "d", "bad", "mend it", one)
    assert sheet.exit_code() == code


@pytest.mark.parametrize(
    ("service", "sock", "verdict", "words"),
    [
        ({}, {}, Verdict.OK, "active (running) and enabled"),
        ({"LoadState": "not-found"}, {}, Verdict.WARNING, "not installed"),
        ({"UnitFileState": "disabled"}, {}, Verdict.WARNING, "systemctl enable suno-videod"),
        ({"ActiveState": "failed"}, {}, Verdict.PROBLEM, "journalctl -u suno-videod"),
        (
            {"ExecStart": "{ path=/nowhere/python ; argv[]=x }"},
            {},
            Verdict.PROBLEM,
            "/nowhere/python, which is not there",
        ),
        ({}, {"LoadState": "not-found"}, Verdict.OK, "a restart refuses callbacks"),
        ({}, {"ActiveState": "inactive"}, Verdict.WARNING, "enable --now suno-videod.socket"),
    ],
)
def test_what_systemd_says_is_judged(
    service: dict[str, str], sock: dict[str, str], verdict: Verdict, words: str
) -> None:
    """The unit's program, whether it runs, whether it starts after a reboot, and the socket."""
    sheet = Sheet()
    judge_unit(sheet, read_properties(SERVICE) | service, read_properties(SOCKET) | sock)
    (found,) = [one for one in sheet.findings if words in one.measured + one.mend]
    assert found.verdict is verdict


def test_lines_are_wrapped_and_what_others_said_cannot_move_the_cursor(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Below eighty columns with an indent; control characters are spelled out."""
    sheet = Sheet()
    sheet.fail(Group.NETWORK, "a check", "a proxy says \x1b[2J " + "word " * 30, "mend " * 30)
    show(sheet.findings)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "network"
    assert lines[1].startswith("  PROBLEM     a check: a proxy says \\x1b[2J")
    assert max(map(len, lines)) <= 80
    assert any(line.startswith(" " * 14 + "-> mend") for line in lines)
    assert lines[-1] == "1 problem, 0 warnings: mend what -> says"


def test_a_secret_is_no_text() -> None:
    """What a sheet is given by mistake does not tell it."""
    sheet = Sheet()
    sheet.ok(Group.MACHINE, "key", f"{Secret('the-secret')}")
    assert "the-secret" not in str(sheet.plain())


@pytest.mark.parametrize(
    ("refused", "state", "warned"), [(2, "wanted", 0), (3, "wanted", 1), (9, "done", 0)]
)
def test_links_that_are_refused_again_and_again_are_told(
    refused: int, state: str, warned: int
) -> None:
    """One or two grew old; after three in a row all is not well, until the video is here."""
    known = {"task_id": "a", "state": state, "source": "track", "unconfirmed": False}
    counts = {"attempts": refused, "callbacks": 0, "received_bytes": 0}
    rest = dict.fromkeys(TaskView.__struct_fields__)
    found = TaskDiagnosisView(
        task=msgspec.convert(rest | known | counts, TaskView),
        last_step_at=None,
        answered_at=None,
        provider=QuestionView(asked=False, message="not now"),
        evidence=None,
        has_link=False,
        code=None,
        source_checked=False,
        objection=None,
        author=None,
        domain_name=None,
        gates=[],
        refused_links=refused,
    )
    sheet = Sheet()
    judge_task(sheet, found)
    warnings = [one.check for one in sheet.findings if one.verdict is Verdict.WARNING]
    assert warnings == ["link"] * warned
