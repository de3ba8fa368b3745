"""What a file says is found under its name and line, and a wrong name is led to the right one."""

from pathlib import Path

import pytest

from daemon.config.mistakes import ConfigError
from daemon.config.sources import read_environment, read_file


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the configuration file of a test lies."""
    return tmp_path / "config.toml"


@pytest.mark.parametrize(
    ("text", "key", "line", "message"),
    [
        ("xyz = 1", "xyz", 1, "unknown key"),
        ("concurrency = 1", "concurrency", 1, "unknown key; did you mean download.concurrency?"),
        ("State_Dir = 1", "State_Dir", 1, "unknown key; did you mean state_dir?"),
        ("\n[log]\nleve = 1", "log.leve", 3, "unknown key; did you mean log.level?"),
        ("log.LEVEL = 1", "log.LEVEL", 1, "unknown key; did you mean log.level?"),
        (
            "poll.max-interval = 1",
            "poll.max-interval",
            1,
            "unknown key; did you mean poll.max_interval?",
        ),
        ("[callback]\napi_key = 1", "callback.api_key", 2, "unknown key; did you mean provider"),
        ("[callback]\ntls_versions = 1", "callback.tls_versions", 2, "unknown key"),
        ('"a\\u001b" = 1', '"a\\u001b"', 1, "unknown key"),
        ('"provider.api_key" = "x"', '"provider.api_key"', 1, "unknown key"),
        ("[download.x]\ny = 1", "download.x", 1, "unknown key"),
        ('# x\n[[notfy]]\nurl = "x"', "notfy", 2, "unknown section; did you mean [[notify]]?"),
        ("[downlod]\nx = 1", "downlod", 1, "unknown section; did you mean [download]?"),
        ("x = []", "x", 1, "unknown key"),
        ("download = 4", "download", 1, "expected a section, written as [download]"),
        ("[[log]]", "log", 1, "expected a section, written as [log]"),
    ],
)
def test_a_wrong_name_is_led_to_the_right_one(
    path: Path, text: str, key: str, line: int, message: str
) -> None:
    """An unknown name is one mistake at its line, with the nearest known name if one is near."""
    path.write_text(text)
    given, (mistake,) = read_file(path)
    assert not given
    assert (mistake.key, mistake.line) == (key, line)
    assert mistake.message.startswith(message)
    assert ("did you mean" in mistake.message) is ("did you mean" in message)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a = 1\nb 2", "config.toml:2: not valid TOML: Expected '=' after a key in a key/value"),
        ("a = 1\n\nb =\n", "config.toml:3: not valid TOML: Invalid value (column 4)"),
        ("a = 1\nb = 2\na = 3", "config.toml:3: not valid TOML: Cannot overwrite a value ("),
        ("a = [1,\n2\n\n", "config.toml:2: not valid TOML: "),
        ("a = " + "1" * 5000, "config.toml:1: not valid TOML: Exceeds the limit"),
        ("a = " + "[" * 5000, "config.toml:1: not valid TOML: "),
    ],
)
def test_what_is_not_toml_has_its_place(path: Path, text: str, expected: str) -> None:
    """A slip of the syntax is shown with line and column, or at the end of the file."""
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_file(path)
    line = str(caught.value).removeprefix(f"{path.parent}/")
    assert line.startswith(expected)
    assert "column" in line or "at the end of the file" in line


def test_lines_are_right_whatever_stands_before(path: Path) -> None:
    """Comments, strings and lists over several lines, and line ends of Windows, move nothing."""
    path.write_bytes(
        b"# [log]\r\n"
        b'state_dir = """\\\r\n'
        b"  /state # no comment\r\n"
        b'  """\r\n'
        b"[callback] # tokens = [\r\n"
        b"tokens = [ # the first\r\n"
        b'  "[log]-[log]-[log]",\r\n'
        b"]\r\n"
        b"\r\n"
        b"[log]\r\n"
        b"level = 'loud'\r\n"
    )
    given, mistakes = read_file(path)
    assert not mistakes
    assert {name: value.line for name, value in given.items()} == {
        "state_dir": 2,
        "callback.tokens": 6,
        "log.level": 11,
    }
    assert given["callback.tokens"].raw == ["[log]-[log]-[log]"]


@pytest.mark.parametrize(
    ("content", "words"), [(b"\xff", "not UTF-8 text"), (None, "Is a directory")]
)
def test_a_file_that_cannot_be_read_says_why(path: Path, content: bytes | None, words: str) -> None:
    """The reason of the operating system is passed on, with the path."""
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_file(path)
    assert str(caught.value) == f"{path}: {words}"


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("SUNO_VIDEOD_CONFIGURATION", "unknown variable; did you mean SUNO_VIDEOD_CONFIG?"),
        ("SUNO_VIDEOD_XYZ", "unknown variable"),
        ("SUNO_VIDEOD_CALLBACK__TOKEN", "unknown variable; did you mean SUNO_VIDEOD_CALLBACK__TOK"),
        ("SUNO_VIDEOD_log__level", "unknown variable; did you mean SUNO_VIDEOD_LOG__LEVEL?"),
        ("SUNO_VIDEOD_CONFG", "unknown variable; did you mean SUNO_VIDEOD_CONFIG?"),
    ],
)
def test_a_wrong_variable_is_led_to_the_right_one(variable: str, message: str) -> None:
    """A mistyped variable is never passed over in silence."""
    given, (mistake,) = read_environment({variable: "x"})
    assert not given
    assert (mistake.key, mistake.line) == (variable, None)
    assert mistake.message.startswith(message)
    assert ("did you mean" in mistake.message) is ("did you mean" in message)


def test_other_variables_are_none_of_our_business() -> None:
    """Foreign names, and the one that names the file, are no keys."""
    assert read_environment({"SUNO_VIDEO_X": "1", "SUNO_VIDEOD_CONFIG": "x"}) == ({}, [])
