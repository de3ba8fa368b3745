"""A finding, and how all of them are shown.

Rule: every finding says what was measured; one that is no good says what it means for the videos
and what to do. Marks are words, for not everybody sees colours.
"""

import shutil
import textwrap
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final

import click
import msgspec

from daemon.cli.group import Exit
from daemon.rules.redaction import escape_control

WIDTH: Final = 80
_MARK: Final = 12
_INDENT: Final = " " * (2 + _MARK)


class Group(StrEnum):
    """The four parts of the provider's list, and this machine."""

    NETWORK = "network"
    ANSWER = "server answer"
    GENERATION = "generation"
    DOWNLOAD = "download"
    MACHINE = "machine"


class Verdict(StrEnum):
    """How good it is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    NOT_CHECKED = "not checked"


class Finding(msgspec.Struct, frozen=True):
    """One line of a diagnosis; `mend` is empty where there is nothing to do."""

    group: Group
    check: str
    verdict: Verdict
    measured: str
    mend: str = ""
    exit_code: int = 0
    """How the command ends because of it."""


class Sheet:
    """The findings of one diagnosis, in the order in which they were made."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def ok(self, group: Group, check: str, measured: str) -> None:
        """Note what is as it should be."""
        self.findings.append(Finding(group, check, Verdict.OK, measured))

    def warn(self, group: Group, check: str, measured: str, mend: str) -> None:
        """Note what will become a problem, or may be one."""
        self.findings.append(Finding(group, check, Verdict.WARNING, measured, mend))

    def fail(
        self, group: Group, check: str, measured: str, mend: str, code: Exit = Exit.UNEXPECTED
    ) -> None:
        """Note what has to be mended; `code` is how the command ends because of it."""
        self.findings.append(Finding(group, check, Verdict.PROBLEM, measured, mend, int(code)))

    def skip(self, group: Group, check: str, why: str) -> None:
        """Note what nobody looked at, and why."""
        self.findings.append(Finding(group, check, Verdict.NOT_CHECKED, why))

    def plain(self) -> list[dict[str, object]]:
        """Return the findings as JSON takes them."""
        return [msgspec.to_builtins(finding) for finding in self.findings]

    def exit_code(self) -> int:
        """Return how the command ends: what a person has to mend first comes first."""
        codes = {finding.exit_code for finding in self.findings}
        return next((int(code) for code in _WORST_FIRST if code in codes), 0)


_WORST_FIRST: Final = (
    Exit.CONFIGURATION,
    Exit.ACCOUNT,
    Exit.DISK,
    Exit.FAILED,
    Exit.UNEXPECTED,
    Exit.TRANSIENT,
)
_COLOURS: Final[Mapping[Verdict, str]] = {
    Verdict.OK: "green",
    Verdict.WARNING: "yellow",
    Verdict.PROBLEM: "red",
    Verdict.NOT_CHECKED: "bright_black",
}
_MARKS: Final[Mapping[Verdict, str]] = {
    Verdict.OK: "ok",
    Verdict.WARNING: "warning",
    Verdict.PROBLEM: "PROBLEM",
    Verdict.NOT_CHECKED: "not checked",
}


def show(findings: Iterable[Finding]) -> None:
    """Print findings under the headings of their groups, and a last line that sums them up."""
    listed = list(findings)
    width = min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)
    for group in Group:
        lines = [finding for finding in listed if finding.group is group]
        if not lines:
            continue
        click.echo(click.style(group.value, bold=True))
        for finding in lines:
            _show_one(finding, width)
        click.echo()
    click.echo(_sum_up(listed))


def _show_one(finding: Finding, width: int) -> None:
    mark = click.style(f"{_MARKS[finding.verdict]:<{_MARK}}", fg=_COLOURS[finding.verdict])
    text = escape_control(f"{finding.check}: {finding.measured}")
    first, *others = _wrap(text, width) or [""]
    click.echo(f"  {mark}{first}")
    for line in others:
        click.echo(f"{_INDENT}{line}")
    if finding.mend:
        for number, line in enumerate(_wrap(escape_control(finding.mend), width - 3)):
            click.echo(f"{_INDENT}{'   ' if number else '-> '}{line}")


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text, max(width - len(_INDENT), 20), break_long_words=False, break_on_hyphens=False
    )


def _sum_up(findings: list[Finding]) -> str:
    counts = {
        verdict: sum(finding.verdict is verdict for finding in findings) for verdict in Verdict
    }
    problems, warnings = counts[Verdict.PROBLEM], counts[Verdict.WARNING]
    seen = len(findings) - counts[Verdict.NOT_CHECKED]
    if problems:
        return f"{_number(problems, 'problem')}, {_number(warnings, 'warning')}: mend what -> says"
    if warnings:
        return f"no problem, {_number(warnings, 'warning')} in {seen} checks"
    return f"all is well: {seen} checks"


def _number(count: int, word: str) -> str:
    return f"{count} {word}" + ("" if count == 1 else "s")
