"""The two programs beside the daemon: the provider in a box, and the demo."""

import signal
from pathlib import Path

from daemon.simulator.faults import SCENARIOS
from tests.stories.harness import run_verb, started


def test_the_simulator_tells_its_scenarios() -> None:
    """`simulate --scenarios` lists every audioId that makes trouble, and starts nothing."""
    ended = run_verb("simulate", "--scenarios")
    assert (ended.code, ended.errors) == (0, "")
    assert [line.split()[0] for line in ended.output.splitlines()[1:]] == list(SCENARIOS)


def test_the_simulator_stops_politely_and_says_when_it_cannot_start() -> None:
    """SIGTERM and Ctrl-C are exit 0; a taken port is exit 1 in one line."""
    for number in (signal.SIGTERM, signal.SIGINT):
        with started("simulate", "--listen", "127.0.0.1:0") as process:
            assert process.stdout is not None
            address = process.stdout.readline().split()[3].removeprefix("http://")
            if number == signal.SIGINT:
                taken = run_verb("simulate", "--listen", address)
                assert (taken.code, taken.output) == (1, "")
                assert address in taken.errors
                assert "Traceback" not in taken.errors
            process.send_signal(number)
            assert process.wait(10) == 0


def test_the_demo_is_as_promised(tmp_path: Path) -> None:
    """One command shows the whole job offline and leaves four whole films, and exits 0."""
    folder = tmp_path / "demo"
    ended = run_verb("demo", "--directory", str(folder), seconds=90)
    assert (ended.code, ended.errors) == (0, "")
    assert "all as promised" in ended.output
    films = list((folder / "videos").glob("*.mp4"))
    assert len(films) == 4
    assert all(str(film) in ended.output for film in films)


def test_an_interrupted_demo_leaves_nothing_running(tmp_path: Path) -> None:
    """Ctrl-C in the middle of the demo is exit 8, and its two programs are ended as well."""
    with started("demo", "--directory", str(tmp_path)) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("3."):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 8
    assert "Traceback" not in errors
    assert "daemon.stopped" in (tmp_path / "daemon.log").read_text()
    assert not (tmp_path / "state" / "admin.sock").exists()
