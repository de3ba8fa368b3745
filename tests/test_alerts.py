"""The example alarms are rules that Prometheus takes, and ring when they should."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALERTS = ROOT / "docs" / "alerts.yml"
SUFFIXES = re.compile(r"_(total|bucket|sum|count)$")


def promtool(*arguments: str) -> None:
    """Run the tool that Prometheus comes with, and let what it says be seen."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("needs the package prometheus")
    done = subprocess.run(  # noqa: S603 - Debian's program, our own files
        [program, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_the_rules() -> None:
    """Expressions, durations and templates are read by the real thing."""
    promtool("check", "rules", str(ALERTS))


def test_the_alarms_ring_when_they_should(tmp_path: Path) -> None:
    """A quiet week is quiet; a wrong key, a near deadline and a loss are not."""
    cases = (ROOT / "tests" / "samples" / "alerts" / "tests.yml").read_text(encoding="utf-8")
    path = tmp_path / "tests.yml"
    path.write_text(cases.replace("RULES", str(ALERTS)), encoding="utf-8")
    promtool("test", "rules", str(path))


def test_every_alarm_is_about_a_metric_that_is_listed() -> None:
    """An alarm about a misspelled name never rings."""
    page = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `(suno_videod_\w+)`", page, re.MULTILINE))
    used = set(re.findall(r"\bsuno_videod_\w+", ALERTS.read_text(encoding="utf-8")))
    assert {SUFFIXES.sub("", name) for name in used} <= {SUFFIXES.sub("", name) for name in listed}
