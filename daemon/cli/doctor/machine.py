"""What can be seen of this machine without the daemon: configuration, interpreter, unit, disk.

Rule: what cannot be looked at is said to be not checked, with the reason; nothing is guessed.
"""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from daemon.cli.doctor.findings import Group, Sheet
from daemon.cli.group import Exit
from daemon.config import ConfigError, Loaded
from daemon.floors import check_floors
from daemon.wording import size

LEAST_PYTHON: Final = (3, 11)
UNIT: Final = "suno-videod"
SYSTEMCTL_SECONDS: Final = 5.0
_BOOTED: Final = Path("/run/systemd/system")
"""There where systemd runs: sd_booted(3)."""
_PROPERTIES: Final = "LoadState,ActiveState,SubState,UnitFileState,ExecStart,Result"
_EXTRAS: Final[Mapping[str, str]] = {"cli": "rich", "notify": "apprise"}


def judge_mistakes(sheet: Sheet, error: ConfigError) -> None:
    """Note what is wrong with the configuration."""
    where = error.path or "the configuration"
    for mistake in error.mistakes:
        line = f" line {mistake.line}," if mistake.line else ""
        key = f" {mistake.key}:" if mistake.key else ""
        sheet.fail(
            Group.MACHINE,
            "configuration",
            f"{where},{line}{key} {mistake.message}. With it no daemon starts, and a running one "
            "keeps the old values",
            "correct it, then: suno-videod config check",
            Exit.CONFIGURATION,
        )


def judge_configuration(sheet: Sheet, loaded: Loaded) -> None:
    """Note how it stands with the configuration."""
    sheet.ok(
        Group.MACHINE, "configuration", f"{loaded.path or 'the built-in defaults'}: no mistakes"
    )
    for warning in loaded.warnings:
        sheet.warn(
            Group.MACHINE,
            "configuration",
            warning,
            "change it, or leave it when you know why; then: systemctl reload suno-videod",
        )


def judge_interpreter(sheet: Sheet) -> None:
    """Note whether this Python and its libraries will do."""
    told = f"Python {platform.python_version()} ({sys.executable})"
    if sys.version_info < LEAST_PYTHON:
        sheet.fail(
            Group.MACHINE, "interpreter", f"{told} is too old", "use Python 3.11, 3.12 or 3.13"
        )
        return
    wrong = check_floors()
    for one in wrong:
        sheet.fail(
            Group.MACHINE,
            "libraries",
            f"{one}. The daemon does not start with it",
            f"{sys.executable} -m pip install --require-hashes -r requirements.lock",
        )
    there = [name for name, module in _EXTRAS.items() if find_spec(module)]
    if not wrong:
        extras = f"extras installed: {', '.join(there) or 'none'}"
        sheet.ok(Group.MACHINE, "interpreter", f"{told}, libraries new enough; {extras}")


def look_at_unit(sheet: Sheet) -> None:
    """Note whether systemd keeps the daemon running, where there is a systemd."""
    systemctl = shutil.which("systemctl")
    if systemctl is None or not _BOOTED.is_dir():
        sheet.skip(Group.MACHINE, "unit", "systemd does not run this machine")
        return
    try:
        shown = [
            subprocess.run(  # noqa: S603 - systemctl, with words of ours
                [systemctl, "show", "--no-pager", f"--property={_PROPERTIES}", unit],
                capture_output=True,
                text=True,
                check=True,
                timeout=SYSTEMCTL_SECONDS,
            ).stdout
            for unit in (f"{UNIT}.service", f"{UNIT}.socket")
        ]
    except (OSError, subprocess.SubprocessError) as error:
        sheet.skip(Group.MACHINE, "unit", f"systemctl does not answer ({type(error).__name__})")
        return
    judge_unit(sheet, *map(read_properties, shown))


def read_properties(text: str) -> dict[str, str]:
    """Read what `systemctl show` prints."""
    pairs = (line.partition("=") for line in text.splitlines())
    return {name: value for name, _, value in pairs}


def judge_unit(sheet: Sheet, service: Mapping[str, str], sock: Mapping[str, str]) -> None:
    """Note what systemd says about the service and its socket."""
    group = Group.MACHINE
    if service.get("LoadState") != "loaded":
        sheet.warn(
            group,
            "unit",
            f"{UNIT}.service is not installed: nobody starts the daemon after a reboot, and "
            "callbacks of that time are lost",
            "install it: README, Installation as a service",
        )
        return
    program = service.get("ExecStart", "").partition("path=")[2].partition(" ;")[0].strip()
    state = f"{service.get('ActiveState')} ({service.get('SubState')})"
    if program and not Path(program).exists():
        sheet.fail(
            group,
            "unit",
            f"{UNIT}.service starts {program}, which is not there: it cannot start again",
            "install it there, or correct ExecStart= (systemctl edit suno-videod)",
        )
    elif service.get("ActiveState") not in {"active", "reloading", "activating"}:
        result = f", result {service['Result']}" if service.get("Result") else ""
        sheet.fail(
            group,
            "unit",
            f"{UNIT}.service is {state}{result}: no callback is taken, no video fetched",
            "see why: journalctl -u suno-videod -n 50; then: systemctl restart suno-videod",
            Exit.TRANSIENT,
        )
    elif service.get("UnitFileState") not in {"enabled", "enabled-runtime", "static"}:
        sheet.warn(
            group,
            "unit",
            f"{UNIT}.service is {state}, and not enabled: it does not start after a reboot",
            "systemctl enable suno-videod",
        )
    else:
        sheet.ok(group, "unit", f"{UNIT}.service is {state} and enabled")
    if sock.get("LoadState") != "loaded":
        sheet.ok(group, "socket unit", "not installed: a restart refuses callbacks for a moment")
    elif sock.get("ActiveState") != "active":
        sheet.warn(
            group,
            "socket unit",
            f"{UNIT}.socket is installed and {sock.get('ActiveState')}: it keeps no callback over "
            "a restart",
            "systemctl enable --now suno-videod.socket",
        )
    else:
        sheet.ok(group, "socket unit", f"{UNIT}.socket is active: a restart refuses no callback")


def look_at_disk(sheet: Sheet, loaded: Loaded) -> None:
    """Note what room there is, where no daemon can say it."""
    least = loaded.config.disk.min_free
    folders = {"videos' disk": loaded.config.download.directory}
    folders["ledger's disk"] = loaded.config.state_dir
    for check, folder in folders.items():
        try:
            found = os.statvfs(folder)
        except OSError as error:
            sheet.skip(Group.MACHINE, check, f"{folder}: {error.strerror}")
            continue
        free = found.f_bavail * found.f_frsize
        told = f"{size(free)} free in {folder}"
        if free < least and folder == loaded.config.download.directory:
            sheet.fail(
                Group.MACHINE,
                check,
                f"{told}, below disk.min_free ({size(least)}): downloads would pause",
                "make room: move finished videos away, or lower disk.min_free",
                Exit.DISK,
            )
        else:
            sheet.ok(Group.MACHINE, check, told)
