"""The configuration is final values or one error with every mistake in it."""

from collections.abc import Mapping
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest

from daemon import config
from daemon.config import ConfigError, Loaded, Mistake, find, load, show
from daemon.config.sections import KEYS, Secret, TcpEndpoint, UnixEndpoint

HOME = {"HOME": "/home/somebody"}
LONG = "a-token-of-more-than-16"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the configuration file of a test lies."""
    return tmp_path / "config.toml"


def load_text(path: Path, text: str, environ: Mapping[str, str] = HOME) -> Loaded:
    """Load a private file with `text` in it."""
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return load(path, environ)


def mistakes_of(path: Path, text: str, environ: Mapping[str, str] = HOME) -> list[str]:
    """Return the lines of the error that `text` causes, without the folder of the file."""
    with pytest.raises(ConfigError) as caught:
        load_text(path, text, environ)
    return str(caught.value).replace(f"{path.parent}/", "").splitlines()


def test_flag_wins_over_variable_over_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of flag, variable and ./config.toml is taken."""
    monkeypatch.chdir(tmp_path)
    for name in ("flag.toml", "variable.toml", "config.toml"):
        (tmp_path / name).touch()
    environ = {"SUNO_VIDEOD_CONFIG": str(tmp_path / "variable.toml")}
    assert find(tmp_path / "flag.toml", environ) == tmp_path / "flag.toml"
    assert find(None, environ) == tmp_path / "variable.toml"
    assert find(None, {"SUNO_VIDEOD_CONFIG": ""}) == Path("config.toml")


def test_without_a_file_the_defaults_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a configuration file needs none."""
    monkeypatch.chdir(tmp_path)
    local, system = config.SEARCHED
    assert (local, system) == (Path("config.toml"), Path("/etc/suno-videod/config.toml"))
    assert find(None, {}) == (system if system.exists() else None)


@pytest.mark.parametrize(
    ("flag", "environ", "name"),
    [
        (Path("/nowhere/x.toml"), {}, "--config"),
        (None, {"SUNO_VIDEOD_CONFIG": "/nowhere/x.toml"}, "SUNO_VIDEOD_CONFIG"),
    ],
)
def test_a_named_file_must_exist(flag: Path | None, environ: dict[str, str], name: str) -> None:
    """A mistyped path is an error that says who named it, never the defaults."""
    with pytest.raises(ConfigError) as caught:
        find(flag, environ)
    assert str(caught.value) == f"{name}: there is no file /nowhere/x.toml"


def test_a_file_that_cannot_be_reached_is_not_passed_over(tmp_path: Path) -> None:
    """What cannot be looked at is taken and fails when it is read, with its reason."""
    loop = tmp_path / "loop.toml"
    loop.symlink_to(loop)
    assert find(loop, {}) == loop
    with pytest.raises(ConfigError, match="Too many levels of symbolic links"):
        load(loop, HOME)


def test_defaults_of_a_plain_user() -> None:
    """Without anything given, state lies at home and callbacks are believed."""
    loaded = load(None, HOME)
    assert loaded.config.state_dir == Path("/home/somebody/.local/state/suno-videod")
    assert loaded.config.download.directory == loaded.config.state_dir / "videos"
    assert loaded.config.admin.socket == loaded.config.state_dir / "admin.sock"
    assert loaded.config.callback.trust == "callback"
    assert loaded.config.provider.base_url == "https://api.sunoapi.org"
    assert set(loaded.origins) == set(KEYS)
    assert set(loaded.origins.values()) == {"default"}
    assert (loaded.path, loaded.warnings, loaded.secrets) == (None, (), ())


@pytest.mark.parametrize(
    ("environ", "state_dir"),
    [
        ({"STATE_DIRECTORY": "/var/lib/a", "XDG_STATE_HOME": "/xdg", **HOME}, "/var/lib/a"),
        ({"STATE_DIRECTORY": "/var/lib/a:/var/lib/b"}, "/var/lib/a"),
        ({"XDG_STATE_HOME": "/xdg", **HOME}, "/xdg/suno-videod"),
        ({"XDG_STATE_HOME": "xdg", **HOME}, "/home/somebody/.local/state/suno-videod"),
        ({}, "/var/lib/suno-videod"),
    ],
)
def test_state_lies_where_the_platform_says(environ: dict[str, str], state_dir: str) -> None:
    """The service manager's folder wins over the user's, and a relative XDG path is ignored."""
    assert load(None, environ).config.state_dir == Path(state_dir)


def test_admin_socket_lies_in_the_runtime_folder() -> None:
    """Under systemd the socket is where it goes away with the service."""
    loaded = load(None, {"RUNTIME_DIRECTORY": "/run/x:/run/y", "STATE_DIRECTORY": "/s"})
    assert loaded.config.admin.socket == Path("/run/x/admin.sock")


@pytest.mark.parametrize(
    ("kind", "base_url"),
    [
        ("sunoapi", "https://api.sunoapi.org"),
        ("apibox", "https://api.api.box"),
        ("kie", "https://api.kie.ai"),
    ],
)
def test_kind_decides_the_base_url(path: Path, kind: str, base_url: str) -> None:
    """Each provider has its own address, unless one is given."""
    assert load_text(path, f'provider.kind = "{kind}"').config.provider.base_url == base_url
    given = load_text(path, f'provider = {{kind = "{kind}", base_url = "https://x.example/"}}')
    assert given.config.provider.base_url == "https://x.example"


def test_an_api_key_makes_callbacks_hints(path: Path) -> None:
    """With a key the provider's answer counts, unless the owner says otherwise."""
    key = '[provider]\napi_key = "key"\n'
    assert load_text(path, key).config.callback.trust == "confirm"
    assert load_text(path, f'{key}[callback]\ntrust = "callback"').config.callback.trust == (
        "callback"
    )


def test_every_kind_of_value_is_read(path: Path) -> None:
    """Endpoints, networks, durations, sizes, modes, numbers, hosts and switches arrive final."""
    loaded = load_text(
        path,
        """
        state_dir = "/state"
        [callback]
        listen = "unix:cb.sock"
        trusted_proxies = ["10.0.0.0/8"]
        trust_link_after = "1h30m"
        [provider]
        requests_per_second = 2
        [download]
        file_name = "{date}_{label}_{task_id}.mp4"
        file_mode = "0600"
        directory_mode = "2770"
        max_size = 1000
        min_speed = "0"
        allowed_hosts = ["*.Example.com"]
        allow_private = ["127.0.0.0/8"]
        allow_http = true
        [admin]
        listen = "localhost:0"
        """,
    )
    callback, download = loaded.config.callback, loaded.config.download
    assert callback.listen == UnixEndpoint(path.parent / "cb.sock")
    assert callback.trusted_proxies == (ip_network("10.0.0.0/8"),)
    assert callback.trust_link_after == timedelta(minutes=90)
    assert loaded.config.provider.requests_per_second == 2.0
    assert isinstance(loaded.config.provider.requests_per_second, float)
    assert (download.file_mode, download.directory_mode) == (0o600, 0o2770)
    assert (download.max_size, download.min_speed) == (1000, 0)
    assert download.allowed_hosts == ("*.example.com",)
    assert download.allow_private == (ip_network("127.0.0.0/8"),)
    assert download.allow_http is True
    assert loaded.config.admin.listen == TcpEndpoint("localhost", 0)
    assert loaded.origins["callback.listen"] == "file"


def test_an_empty_listen_switches_the_listener_off(path: Path) -> None:
    """No callbacks are heard when the owner says so."""
    assert load_text(path, '[callback]\nlisten = ""').config.callback.listen is None


def test_relative_paths_start_at_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of the file counts, not the one the daemon was started in; `~` is home."""
    text = 'state_dir = "../s"\n[download]\ndirectory = "~/films"\n[admin]\nsocket = "/a.sock"\n'
    loaded = load_text(path, text).config
    assert loaded.state_dir == path.parent / "../s"
    assert loaded.download.directory == Path("/home/somebody/films")
    assert loaded.admin.socket == Path("/a.sock")
    monkeypatch.chdir(path.parent)
    assert load(Path("config.toml"), HOME).config.state_dir == path.parent / "../s"
    environ = {"SUNO_VIDEOD_STATE_DIR": "s", **HOME}
    assert load(None, environ).config.state_dir == path.parent / "s"
    assert mistakes_of(path, text, {}) == [
        'config.toml:3: download.directory: expected a path without "~": there is no $HOME'
    ]


# --- mistakes -----------------------------------------------------------------------------------

MANY_MISTAKES = """\
state_dir = 5
[callback]
listen = "8080"  # no host
public_url = "mv.example.com"
tokens = [
  "good-good-good-good",
  "bad/bad",
  7,
]
trust = "confirm"

[downlod]
directory = "/x"

[download]
concurency = 4
concurrency = 0
stall_timeout = 30
max_size = "4 GB"
file_mode = "0440"
api_key = "x"

[poll]
interval = "7h"
"""


ALL_OF_THEM = """\
config.toml:1: state_dir: expected a string such as "...", not a number
config.toml:3: callback.listen: expected an address such as "127.0.0.1:8080" or "[::1]:8080"
config.toml:4: callback.public_url: expected a URL such as "https://mv.example.com/video-callback"
config.toml:5: callback.tokens: item 2: expected only letters, digits and . _ ~ -, \
for it is part of a URL; item 3: expected a string such as "...", not a number
config.toml:10: callback.trust: "confirm" asks the provider: set provider.api_key too, \
or trust = "callback"
config.toml:12: downlod: unknown section; did you mean [download]?
config.toml:16: download.concurency: unknown key; did you mean download.concurrency?
config.toml:17: download.concurrency: expected a whole number from 1 to 256, not 0
config.toml:18: download.stall_timeout: expected a string such as "30s", not a number
config.toml:19: download.max_size: expected a size such as "64K", "8M" or "2G", \
or a number of bytes
config.toml:20: download.file_mode: expected a mode that holds "0600", the owner's own access, \
and nothing beyond "0666"
config.toml:21: download.api_key: unknown key; did you mean provider.api_key?
config.toml:24: poll.interval: expected poll.interval = "7h" to be no longer than \
poll.max_interval = "6h"
SUNO_VIDEOD_DOWNLOAD_CONCURRENCY: unknown variable; \
did you mean SUNO_VIDEOD_DOWNLOAD__CONCURRENCY?
SUNO_VIDEOD_DISK__MIN_FREE: expected a size such as "64K", "8M" or "2G", or a number of bytes
SUNO_VIDEOD_LOG__LEVEL: expected "debug" or "info" or "warning" or "error", not "loud"
"""


def test_all_mistakes_come_at_once(path: Path) -> None:
    """Key, line and what to do, for every mistake of the file and of the environment."""
    environ = {
        "SUNO_VIDEOD_DOWNLOAD_CONCURRENCY": "3",
        "SUNO_VIDEOD_LOG__LEVEL": "loud",
        "SUNO_VIDEOD_DISK__MIN_FREE": "much",
        **HOME,
    }
    assert mistakes_of(path, MANY_MISTAKES, environ) == ALL_OF_THEM.splitlines()


def test_mistakes_are_records(path: Path) -> None:
    """A program that shows the mistakes gets key, line and message apart."""
    with pytest.raises(ConfigError) as caught:
        load_text(path, "[log]\nlevle = 1\n")
    assert caught.value.mistakes == (
        Mistake("log.levle", 2, "unknown key; did you mean log.level?"),
    )
    assert caught.value.path == path


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("DOWNLOAD__CONCURRENCY", "9", 9),
        ("DOWNLOAD__ALLOW_HTTP", "true", True),
        ("DOWNLOAD__MAX_SIZE", "2G", 2 * 1024**3),
        ("DOWNLOAD__MAX_SIZE", "2048", 2048),
        ("DOWNLOAD__STALL_TIMEOUT", "5s", timedelta(seconds=5)),
        ("DOWNLOAD__STALL_TIMEOUT", '"5s"', timedelta(seconds=5)),
        ("DOWNLOAD__ALLOWED_HOSTS", '["a.example", "b.example"]', ("a.example", "b.example")),
        ("DOWNLOAD__FILE_NAME", "{task_id}.mp4", "{task_id}.mp4"),
        ("PROVIDER__REQUESTS_PER_SECOND", "0.5", 0.5),
        ("PROVIDER__API_KEY", "12345", Secret("12345")),
        ("PROVIDER__API_KEY", "true", Secret("true")),
        ("PROVIDER__API_KEY", '"quoted"', Secret("quoted")),
        ("CALLBACK__LISTEN", "", None),
        ("STATE_DIR", "/s", Path("/s")),
    ],
)
def test_a_variable_sets_a_key(path: Path, variable: str, text: str, value: object) -> None:
    """It is TOML where that gives the key's type, else a string, and it wins over the file."""
    in_file = (
        'state_dir = "/file"\n[download]\nconcurrency = 2\nallow_http = false\nmax_size = "1G"\n'
        'stall_timeout = "1s"\nallowed_hosts = []\nfile_name = "x{task_id}.mp4"\n'
        '[provider]\nrequests_per_second = 1.0\napi_key = "file"\n[callback]\nlisten = "a:1"\n'
    )
    loaded = load_text(path, in_file, {f"SUNO_VIDEOD_{variable}": text, **HOME})
    name = variable.lower().replace("__", ".")
    found: object = loaded.config
    for part in name.split("."):
        found = getattr(found, part)
    assert found == value
    assert type(found) is type(value)
    assert loaded.origins[name] == "environment"


@pytest.mark.parametrize(
    ("variable", "text", "expected"),
    [
        ("DOWNLOAD__CONCURRENCY", "900", "expected a whole number from 1 to 256, not 900"),
        ("DOWNLOAD__CONCURRENCY", "many", "expected a whole number from 1 to 256, not a string"),
        ("DOWNLOAD__CONCURRENCY", "4\nb = 5", "expected a whole number from 1 to 256, not a"),
        ("DOWNLOAD__STALL_TIMEOUT", "30", "expected a duration such as"),
        ("CALLBACK__TOKENS", "plain", 'expected a list such as ["..."], not a string'),
        ("CALLBACK__TOKENS", '["a b"]', "item 1: expected only letters"),
    ],
)
def test_a_wrong_variable_is_named(variable: str, text: str, expected: str) -> None:
    """Mistakes in the environment carry the name of the variable."""
    with pytest.raises(ConfigError) as caught:
        load(None, {f"SUNO_VIDEOD_{variable}": text, **HOME})
    assert str(caught.value).startswith(f"SUNO_VIDEOD_{variable}: {expected}")


def test_the_environment_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a later variable says does not reach the program behind its back."""
    monkeypatch.setenv("SUNO_VIDEOD_LOG__LEVEL", "debug")
    before = config.environment()
    monkeypatch.setenv("SUNO_VIDEOD_LOG__LEVEL", "error")
    assert before["SUNO_VIDEOD_LOG__LEVEL"] == "debug"


def test_a_conflict_stands_at_a_key_that_was_given(path: Path) -> None:
    """A default is never to blame for what somebody wrote beside it."""
    (line,) = mistakes_of(path, '[download]\nretry_max = "1s"')
    assert line.startswith("config.toml:2: download.retry_max: expected download.retry_first")


def test_what_is_unwise_is_a_warning(path: Path) -> None:
    """It works, and the owner hears of each."""
    text = f'[callback]\npublic_url = "http://x.example"\ntokens = ["{LONG}", "short"]'
    assert [warning.split(": ")[0] for warning in load_text(path, text).warnings] == [
        "callback.tokens",
        "callback.public_url",
    ]


def test_show_is_toml_that_gives_the_same(path: Path) -> None:
    """What is shown can be pasted, but for masked secrets and keys that are not set."""
    loaded = load_text(
        path,
        """
        state_dir = "/a \\"b\\" \\u0007\\u009b"
        [callback]
        listen = "unix:/run/x.sock"
        public_url = "https://mv.example.com/x"
        trusted_proxies = ["10.0.0.0/8", "::1"]
        [download]
        max_size = 1536
        allow_http = true
        stall_timeout = "1500ms"
        [admin]
        listen = "[::1]:9000"
        hosts = ["a.example", "b.example"]
        """,
    )
    rows = show(loaded)
    assert [name for name, _, _ in rows] == list(KEYS)
    assert not any(character in value for _, value, _ in rows for character in "\a\x9b")
    pasted = "\n".join(f"{name} = {value}" for name, value, _ in rows if value != "none")
    assert load_text(path, pasted).config == loaded.config


def test_show_masks_and_tells_the_origin(path: Path) -> None:
    """Secrets are stars, what is not set is none, and each row says where it came from."""
    key = path.parent / "key"
    key.touch(0o600)
    key.write_text("the-key")
    loaded = load_text(
        path,
        f'[provider]\napi_key_file = "key"\n[callback]\ntokens = ["{LONG}", "{LONG}x"]',
        {"SUNO_VIDEOD_POLL__INTERVAL": "60s", **HOME},
    )
    rows = {name: (value, origin) for name, value, origin in show(loaded)}
    assert rows["provider.api_key"] == ('"***"', str(key))
    assert rows["callback.tokens"] == ('["***", "***"]', "file")
    assert rows["admin.token"] == ("none", "default")
    assert rows["poll.interval"] == ('"1m"', "environment")
    assert rows["download.max_size"] == ('"4G"', "default")
    assert rows["download.file_mode"] == ('"0640"', "default")
    assert rows["provider.requests_per_second"] == ("1.0", "default")
