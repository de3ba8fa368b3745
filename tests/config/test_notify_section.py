"""`[[notify]]` and `[heartbeat]`: any number of targets, every mistake at once, no secret shown."""

import base64
import importlib.util
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from daemon.config import ConfigError, Loaded, load, notifying, show
from daemon.rules.notification import EVENTS

HOME = {"HOME": "/home/somebody"}
SECRET = f"whsec_{base64.b64encode(bytes(range(32))).decode()}"
HOOK = "https://hooks.example.com/services/abcdefgh1234"

Load = Callable[..., Loaded]
Wrong = Callable[..., list[str]]


@pytest.fixture
def read(tmp_path: Path) -> Load:
    """Load a private file with this text."""

    def from_text(
        text: str, environ: Mapping[str, str] = HOME, *, thorough: bool = False
    ) -> Loaded:
        path = tmp_path / "config.toml"
        path.write_text(text)
        path.chmod(0o600)
        return load(path, environ, thorough=thorough)

    return from_text


@pytest.fixture
def wrong(read: Load, tmp_path: Path) -> Wrong:
    """Return the lines of the error that a text causes."""

    def from_text(
        text: str, environ: Mapping[str, str] = HOME, *, thorough: bool = False
    ) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            read(text, environ, thorough=thorough)
        return str(caught.value).replace(f"{tmp_path}/", "").splitlines()

    return from_text


def test_targets_come_in_their_order(read: Load) -> None:
    """Whichever way TOML has to write them; a target without events is told all."""
    tables = f'[[notify]]\nurl = "{HOOK}"\nsecret = "{SECRET}"\n[[notify]]\nurl = "ntfy://a"\n'
    tables += 'events = ["task.lost", "gate.closed", "task.lost"]'
    inline = f'notify = [{{ url = "{HOOK}", secret = "{SECRET}" }},\n'
    inline += '{ url = "ntfy://a", events = ["task.lost", "gate.closed"] }]'
    for text in (tables, inline):
        first, second = read(text).config.notify
        assert (first.url.reveal(), first.events) == (HOOK, EVENTS)
        assert first.secret is not None
        assert first.secret.reveal() == SECRET
        assert (second.url.reveal(), second.secret) == ("ntfy://a", None)
        assert second.events == ("task.lost", "gate.closed")
    assert read("notify = []").config.notify == read("").config.notify == ()


def test_every_mistake_has_its_number_and_its_line(wrong: Wrong) -> None:
    """All at once, with the key that was probably meant."""
    text = f"""[[notify]]
url = "{HOOK}"
events = ["task.lost", "task.gone"]

[[notify]]
# nothing
[[notify]]
url = 3
evnts = []
[[notify]]
url = "{HOOK}"
secret = "whsec_c2hvcnQ="
events = []
[[notify]]
url = "ntfy://topic"
secret = "{SECRET}"
[notify.deep]
x = 1
[heartbeat]
url = "http://example.com/ping"
interval = "0s"
"""
    found = wrong(text)
    starts = [
        'config.toml:3: notify[1].events: item 2: expected "task.stored" or ',
        "config.toml:5: notify[2].url: expected a value: each [[notify]] needs one",
        'config.toml:8: notify[3].url: expected a string such as "https://',
        "config.toml:9: notify[3].evnts: unknown key; did you mean notify[3].events?",
        "config.toml:11: notify[4].url: notify[1] has the same",
        'config.toml:12: notify[4].secret: expected "whsec_" and base64 of 24 to 64',
        "config.toml:13: notify[4].events: expected at least one event",
        "config.toml:14: notify[5].deep: unknown key",
        "config.toml:16: notify[5].secret: expected none: only what goes to http(s)",
        "config.toml:20: heartbeat.url: expected https",
        "config.toml:21: heartbeat.interval: expected a duration above 0",
    ]
    assert len(found) == len(starts)
    for line, start in zip(found, starts, strict=True):
        assert line.startswith(start)
    assert "finish.failed" in found[0]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[notify]\nurl = 'x'", "notify"),
        ("notify = 'x'", "notify"),
        ("notify = ['x']", "notify"),
        ("notify.url = 'x'", "notify"),
    ],
)
def test_anything_but_tables_is_no_list_of_targets(wrong: Wrong, text: str, key: str) -> None:
    """The error shows how it is written."""
    (line,) = wrong(text)
    assert line.startswith(f"config.toml:1: {key}: expected any number of tables")
    assert "[[notify]]" in line


@pytest.mark.parametrize(
    "url",
    [
        "http://10.1.1.1/secret-in-here",
        "http://example.com/secret-in-here",
        "https:///secret-in-here",
        "https://exa mple.com/secret-in-here",
        "https://example.com:0/secret-in-here",
        "https://example.com/#secret-in-here",
        "secret-in-here",
        "ntfy://secret-in-here\\u0007",
    ],
)
def test_a_url_that_cannot_be_used_is_not_repeated(wrong: Wrong, url: str) -> None:
    """It may hold a token."""
    (line,) = wrong(f'[[notify]]\nurl = "{url}"')
    assert line.startswith("config.toml:2: notify[1].url: expected")
    assert "secret-in-here" not in line


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x", "http://[::1]/x", "http://localhost/x"])
def test_this_machine_may_be_told_without_tls(read: Load, url: str) -> None:
    """No token travels anywhere; also of the heartbeat."""
    loaded = read(f'[[notify]]\nurl = "{url}"\n[heartbeat]\nurl = "{url}"\ninterval = "1m"')
    assert loaded.config.notify[0].url.reveal() == url
    assert loaded.config.heartbeat.url == loaded.config.notify[0].url
    assert loaded.config.heartbeat.interval == timedelta(minutes=1)


@pytest.mark.parametrize(
    ("length", "good"), [(23, False), (24, True), (32, True), (64, True), (65, False)]
)
def test_a_secret_has_24_to_64_bytes(
    tmp_path: Path, read: Load, length: int, *, good: bool
) -> None:
    """With padding and without; nothing of a wrong one is shown."""
    for text in (
        f"whsec_{base64.b64encode(b'x' * length).decode()}",
        f"whsec_{base64.b64encode(b'x' * length).decode().rstrip('=')}",
    ):
        toml = f'[[notify]]\nurl = "{HOOK}"\nsecret = "{text}"'
        if good:
            assert read(toml).config.notify[0].secret is not None
            continue
        with pytest.raises(ConfigError, match=r"notify\[1\]\.secret: expected") as caught:
            read(toml)
        assert text not in str(caught.value)
    assert tmp_path.exists()


def test_both_secrets_come_from_files_as_well(read: Load, wrong: Wrong, tmp_path: Path) -> None:
    """Private ones, one a file; a value beside its twin is a mistake."""
    for name, text in (("hook", HOOK), ("seal", SECRET)):
        (tmp_path / name).touch(0o600)
        (tmp_path / name).write_text(f"{text}\n")
    text = '[[notify]]\nurl_file = "hook"\nsecret_file = "seal"'
    loaded = read(text)
    assert loaded.config.notify[0].url.reveal() == HOOK
    assert loaded.origins["notify[1].url"] == str(tmp_path / "hook")
    (line,) = wrong(f'{text}\nurl = "{HOOK}"')
    assert "notify[1].url_file: notify[1].url is set too" in line
    (tmp_path / "hook").chmod(0o644)
    (line,) = wrong(text)
    assert "everyone can read" in line


def test_a_credential_of_systemd_fills_an_empty_table(read: Load, tmp_path: Path) -> None:
    """It is named as `config show` names the key."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "notify[1].url").write_text(HOOK)
    (folder / "heartbeat.url").write_text(f"{HOOK}/beat")
    loaded = read("[[notify]]", {**HOME, "CREDENTIALS_DIRECTORY": str(folder)})
    assert loaded.config.notify[0].url.reveal() == HOOK
    assert loaded.config.heartbeat.url is not None
    assert loaded.origins["notify[1].url"] == loaded.origins["heartbeat.url"] == "credential"


def test_the_environment_holds_a_whole_list(read: Load, wrong: Wrong) -> None:
    """It takes the place of the file's, and its mistakes name the variable."""
    text = f'[[notify]]\nurl = "{HOOK}"'
    given = '[{ url = "ntfy://a", events = ["task.lost"] }, { url = "https://b.example/x" }]'
    loaded = read(text, {**HOME, "SUNO_VIDEOD_NOTIFY": given})
    assert [entry.url.reveal() for entry in loaded.config.notify] == [
        "ntfy://a",
        "https://b.example/x",
    ]
    assert loaded.origins["notify[2].url"] == "environment"
    assert read(text, {**HOME, "SUNO_VIDEOD_NOTIFY": "[]"}).config.notify == ()
    for given, start in (
        ("[{ url = 3, x = 1 }]", "SUNO_VIDEOD_NOTIFY[1].x: unknown key"),
        ("[{ events = [] }]", "SUNO_VIDEOD_NOTIFY[1].events: expected at least one"),
        ("ntfy://a", "SUNO_VIDEOD_NOTIFY: expected an array of tables"),
        ('"ntfy://a"', "SUNO_VIDEOD_NOTIFY: expected an array of tables"),
        ("[]\n[download]", "SUNO_VIDEOD_NOTIFY: expected an array of tables"),
    ):
        found = wrong("", {**HOME, "SUNO_VIDEOD_NOTIFY": given})
        assert [line for line in found if line.startswith(start)], found


def test_show_lists_every_target_and_no_secret(read: Load) -> None:
    """A row for each key of each; the URL, its token and the secret are hidden from all logs."""
    loaded = read(
        f'[[notify]]\nurl = "{HOOK}"\nsecret = "{SECRET}"\n[heartbeat]\nurl = "{HOOK}/heart12345"'
    )
    rows = {key: (value, origin) for key, value, origin in show(loaded)}
    assert rows["notify[1].url"] == ('"***"', "file")
    assert rows["notify[1].secret"] == ('"***"', "file")
    assert rows["notify[1].events"][1] == "default"
    assert rows["heartbeat.url"] == ('"***"', "file")
    assert "abcdefgh1234" not in str(rows)
    hidden = {secret.reveal() for secret in loaded.secrets}
    assert {HOOK, SECRET, SECRET[6:], "abcdefgh1234", "heart12345"} <= hidden


def test_a_readable_file_with_a_target_is_doubtful(tmp_path: Path) -> None:
    """A URL is a secret like any other."""
    path = tmp_path / "config.toml"
    path.write_text(f'[[notify]]\nurl = "{HOOK}"')
    path.chmod(0o644)
    (warning,) = load(path, HOME).warnings
    assert "notify[1].url" in warning
    assert "chmod 600" in warning


def test_only_who_starts_asks_apprise(read: Load, wrong: Wrong) -> None:
    """Its word takes half a second; what it does not understand is not repeated."""
    text = '[[notify]]\nurl = "discord://secret-in-here"\n[[notify]]\nurl = "ntfy://topic"\n'
    text += '[[notify]]\nurl = "nosuch://secret-in-here"'
    assert len(read(text).config.notify) == 3
    found = wrong(text, thorough=True)
    assert [line.partition(": Apprise")[0] for line in found] == [
        "config.toml:2: notify[1].url",
        "config.toml:6: notify[3].url",
    ]
    assert "secret-in-here" not in str(found)


def test_without_apprise_the_error_says_what_to_install(
    wrong: Wrong, read: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And http(s) goes without it."""
    real = importlib.util.find_spec
    monkeypatch.setattr(
        notifying, "find_spec", lambda name: None if name == "apprise" else real(name)
    )
    (line,) = wrong('[[notify]]\nurl = "ntfy://topic"')
    assert "-m pip install apprise" in line
    assert "topic" not in line
    assert read(f'[[notify]]\nurl = "{HOOK}"').config.notify
    monkeypatch.undo()
    monkeypatch.setattr(notifying, "_HERALD", ("/bin/false",))
    (line,) = wrong('[[notify]]\nurl = "ntfy://topic"', thorough=True)
    assert "install it again" in line
