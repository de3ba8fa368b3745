"""The README tells the truth: its examples run, and its tables are those of the code.

Rule: a `console` block is a session. Lines that begin with "$ " are typed, all blocks in one shell;
the lines below show what is printed, with "..." for what differs from run to run. A `toml` block is
a configuration without mistakes.
"""

import ast
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
import pytest

from daemon.cli.completion import EVENTS
from daemon.cli.group import Exit, cli
from daemon.config import environment, load, show
from daemon.dashboard.site import PATHS
from daemon.routes import ROUTES
from daemon.rules.failure import Reason
from daemon.simulator.faults import SCENARIOS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
LOGGING = {"debug", "info", "warning", "error", "exception"}
BASH = shutil.which("bash") or "bash"
END_OF_OUTPUT = "--- end of output ---"


def blocks(language: str) -> list[str]:
    """Return the contents of the code blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def table(*head: str) -> list[list[str]]:
    """Return the cells of the rows of the one table with this head."""
    first = f"| {' | '.join(head)} |\n"
    (found,) = re.findall(rf"^{re.escape(first)}\|[ |-]+\n((?:\|.*\n)+)", README, re.MULTILINE)
    return [
        [cell.strip() for cell in re.split(r" \|(?= )", row[1:-2])] for row in found.splitlines()
    ]


def words(cell: str) -> list[str]:
    """Return what a cell has in backquotes."""
    return re.findall(r"`([^`]+)`", cell)


LOGGERS = {"_log", "log", "logger", "structlog.get_logger()", "self._log"}
NAMED_ELSEWHERE = {"daemon/fittings.py": ["event", "event"]}
"""Where the name of an event is no word in the call: of the gates, whose two names are below."""


def names(node: ast.expr) -> list[ast.expr]:
    """Return what the first argument of a call may be."""
    return [node.body, node.orelse] if isinstance(node, ast.IfExp) else [node]


def log_calls() -> Iterator[tuple[str, str, ast.expr]]:
    """Yield every call of a logger: the file, the level, and what names the event."""
    for path in sorted((ROOT / "daemon").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if node.func.attr in LOGGING and ast.unparse(node.func.value) in LOGGERS:
                for name in names(node.args[0]):
                    yield path.relative_to(ROOT).as_posix(), node.func.attr, name


def events() -> dict[str, set[str]]:
    """Return every event that the program logs, with its levels."""
    found: dict[str, set[str]] = defaultdict(set)
    for _, level, name in log_calls():
        if isinstance(name, ast.Constant):
            found[str(name.value)].add(level.replace("exception", "error"))
    # Events whose names come from elsewhere: the gates', and the libraries'.
    found |= {"gate.closed": {"warning"}, "gate.opened": {"info"}}
    found["library.message"] = {"warning", "error"}
    return found


def test_every_event_is_listed_with_its_levels() -> None:
    """Who filters the log by event or level misses nothing."""
    listed = {
        words(event)[0]: set(levels.split(", "))
        for event, levels, *_ in table("event", "level", "when", "fields")
    }
    assert listed == events()
    for name in ("gate.closed", "gate.opened", "library.message"):
        assert any(f'"{name}"' in path.read_text() for path in (ROOT / "daemon").glob("*.py"))


def test_every_event_is_named_where_it_is_logged() -> None:
    """A name that is put together, or handed over, would be seen by no table of the events."""
    elsewhere: dict[str, list[str]] = defaultdict(list)
    for path, _, name in log_calls():
        if not isinstance(name, ast.Constant):
            elsewhere[path].append(ast.unparse(name))
    assert elsewhere == NAMED_ELSEWHERE


def test_no_logger_is_overlooked() -> None:
    """Whatever is asked for a logger has one of the names under which calls are looked for."""
    for path in sorted((ROOT / "daemon").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Assign) and "get_logger(" in ast.unparse(node.value):
                assert {ast.unparse(target) for target in node.targets} <= LOGGERS, path
            if isinstance(node, ast.Attribute) and node.attr in LOGGING:
                owner = ast.unparse(node.value)
                assert owner in LOGGERS or "log" not in owner.lower(), (path, owner)


def test_every_event_can_be_completed() -> None:
    """The tab key offers `logs --event` all that the log has lines for."""
    assert set(EVENTS) == set(events())


def test_every_scenario_is_listed() -> None:
    """The table is what `simulate --scenarios` prints."""
    listed = {words(audio_id)[0]: told for audio_id, told in table("audioId", "what happens")}
    assert listed == {audio_id: told for audio_id, (_, told) in SCENARIOS.items()}


def test_every_reason_of_a_failure_is_explained() -> None:
    """No reason leaves a person without a next step; `finish` cannot happen yet."""
    pages = [path.read_text("utf-8") for path in (ROOT / "docs" / "troubleshooting").iterdir()]
    explained = [
        word
        for row in re.findall(r"^\| (`[a-z_`, ]+) \|", "".join(pages), re.MULTILINE)
        for word in words(row)
    ]
    assert set(Reason) - set(explained) == {Reason.FINISH}


def test_every_verb_is_listed() -> None:
    """No verb is hidden, none is promised that is not there."""
    listed = {
        re.sub(" [A-Z].*", "", verb)
        for cell, _ in table("verb", "what it does")
        for verb in words(cell)
    }
    there = set()
    for name, command in cli.commands.items():
        inner = command.commands if isinstance(command, click.Group) else {"": command}
        there |= {f"{name} {second}".strip() for second in inner}
    assert listed == there


def test_every_exit_code_is_listed() -> None:
    """A script can tell from the code what to do next."""
    listed = {int(code) for code, _ in table("exit code", "meaning")}
    assert listed == set(Exit)


def test_keys_have_the_defaults_that_are_shown() -> None:
    """The short table of keys is no second truth."""
    defaults = {key: value for key, value, _ in show(load(None, {"HOME": "/home/somebody"}))}
    for key, default, _ in table("key", "default", "meaning"):
        shown = words(default)[0] if "`" in default else default
        assert shown in {defaults[words(key)[0]], ""}, key


def test_every_admin_path_is_listed() -> None:
    """The table is the routes of the private listener."""
    listed = [words(request)[0] for request, _ in table("request", "answer")]
    open_doors = ("/healthz", "/readyz", "/openapi.json", "/metrics", "/v1/events")
    always = [*(f"GET {path}" for path in open_doors), *PATHS]
    assert sorted(listed) == sorted([*always, *(f"{one.method} {one.path}" for one in ROUTES)])


@pytest.mark.parametrize("text", blocks("toml"))
def test_every_configuration_is_right(text: str, tmp_path: Path) -> None:
    """What a reader copies has no mistake and raises no doubt, but for what is to be replaced."""
    path = tmp_path / "config.toml"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    warnings = load(path, {}).warnings
    assert [": still the text of" in one for one in warnings] == [True] * text.count('"put-')


@pytest.mark.parametrize("text", blocks("sh"))
def test_every_shell_block_is_a_shell_script(text: str) -> None:
    """What cannot run in a test can at least be read by a shell, and names files that are here."""
    read = subprocess.run(  # noqa: S603 - a shell that runs nothing
        [BASH, "-n"], input=text, text=True, capture_output=True, check=False
    )
    assert read.stderr == ""
    for name in re.findall(r"\s(systemd/\S+|[a-z./-]*\.(?:lock|toml))(?=\s)", text):
        assert (ROOT / name).exists() or name.startswith("/etc/"), name


def test_every_make_target_and_every_link_is_there() -> None:
    """Nothing that the README points at is missing."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"(?:^|`)make ([a-z]+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
    anchors = {
        re.sub(r"\W+", "-", head.lower()) for head in re.findall(r"^#+ (.+)$", README, re.MULTILINE)
    }
    for anchor in re.findall(r"\]\(#([^)]+)\)", README):
        assert anchor in anchors


def session(text: str) -> Iterator[tuple[str, str]]:
    """Yield the commands of a console block with the output that is shown below each."""
    for typed in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, shown = typed.partition("\n")
        yield command, shown


def script(commands: list[str], ports: Mapping[str, str]) -> str:
    """Return commands as one script that marks where the output of each ends."""
    lines = []
    for command in commands:
        lines.append(command)
        if command.endswith("&"):
            # What was started in the background serves before the next line is typed.
            log = re.findall(r"> (\S+\.log)", command)[0]
            lines.append(
                f"until grep -qsE 'daemon.ready|simulated provider on' {log}; do sleep 0.1; done"
            )
        if "config init" in command:
            lines.append(f"sed -i 's/8080/{ports['8080']}/; s/8090/{ports['8090']}/' config.toml")
        lines.append(f"echo '{END_OF_OUTPUT}'")
    return "\n".join(lines)


def free_port() -> str:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


def matches(shown: str, printed: str) -> bool:
    """Compare what the README shows with what was printed; "..." stands for anything."""
    # Columns are as wide as their longest cell, which differs.
    pattern = re.sub(r"\\ (\\ )+", r"\\s+", re.escape(shown.strip())).replace(r"\.\.\.", ".*")
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None


def test_the_examples_run_as_shown(tmp_path: Path) -> None:
    """A reader who types them sees what the README shows."""
    if shutil.which("curl") is None:
        pytest.skip("needs the package curl")
    ports = {"8080": free_port(), "8090": free_port()}

    def moved(text: str) -> str:
        return re.sub(r"\b80[89]0\b", lambda found: ports[found[0]], text)

    typed = [pair for text in blocks("console") for pair in session(moved(text))]
    listen = f"simulate --listen 127.0.0.1:{ports['8090']} >"
    commands = [command.replace("simulate >", listen) for command, _ in typed]
    here = {**environment(), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.defpath}"}
    here.pop("SUNO_VIDEOD_CONFIG", None)
    path = tmp_path / "printed.txt"
    with path.open("wb") as file:
        shell = subprocess.Popen(  # noqa: S603 - our own examples
            [BASH, "-c", script(commands, ports)],
            cwd=tmp_path,
            env=here,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        shell.wait(60)
    finally:
        # The daemon and the simulator of the session are in its group.
        os.killpg(shell.pid, signal.SIGTERM)
    printed = path.read_text(encoding="utf-8")
    outputs = printed.split(f"{END_OF_OUTPUT}\n")
    assert len(outputs) == len(typed) + 1, printed
    for (command, shown), output in zip(typed, outputs[:-1], strict=True):
        assert matches(shown, output), f"$ {command}\n{output}"
