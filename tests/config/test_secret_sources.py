"""Secrets come inline, from files, variables or credentials, and leave by no message."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from daemon.config import ConfigError, Loaded, load, show
from daemon.config.sections import Secret

HOME = {"HOME": "/home/somebody"}
LONG = "a-token-of-more-than-16"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where the configuration file of a test lies."""
    return tmp_path / "config.toml"


def write_secret(path: Path, text: str, mode: int = 0o600) -> Path:
    """Write a file with a secret."""
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def load_text(path: Path, text: str, environ: Mapping[str, str] = HOME) -> Loaded:
    """Load a private file with `text` in it."""
    return load(write_secret(path, text), environ)


def mistakes_of(path: Path, text: str, environ: Mapping[str, str] = HOME) -> list[str]:
    """Return the lines of the error that `text` causes, without the folder of the file."""
    with pytest.raises(ConfigError) as caught:
        load_text(path, text, environ)
    return str(caught.value).replace(f"{path.parent}/", "").splitlines()


def test_secrets_come_from_files(path: Path) -> None:
    """One value a file, a list one a line; the path is relative and becomes the origin."""
    key = write_secret(path.parent / "key", "the-key\n")
    tokens = write_secret(path.parent / "tokens", f"{LONG}-1\r\n\n  {LONG}-2  \n")
    loaded = load_text(
        path, '[provider]\napi_key_file = "key"\n[callback]\ntokens_file = "tokens"\n'
    )
    assert loaded.config.provider.api_key == Secret("the-key")
    assert loaded.config.callback.tokens == (Secret(f"{LONG}-1"), Secret(f"{LONG}-2"))
    assert loaded.origins["provider.api_key"] == str(key)
    assert loaded.origins["callback.tokens"] == str(tokens)
    assert loaded.warnings == ()
    assert set(loaded.secrets) == {Secret("the-key"), Secret(f"{LONG}-1"), Secret(f"{LONG}-2")}


def test_a_variable_names_a_secret_file(path: Path) -> None:
    """The twin has a variable too, and either variable wins over whatever the file says."""
    write_secret(path.parent / "key", "from-file")
    text = '[provider]\napi_key = "inline"\n'
    environ = {"SUNO_VIDEOD_PROVIDER__API_KEY_FILE": "key", **HOME}
    assert load_text(path, text, environ).config.provider.api_key == Secret("from-file")
    environ = {"SUNO_VIDEOD_PROVIDER__API_KEY": "variable", **HOME}
    text = '[provider]\napi_key_file = "key"\n'
    assert load_text(path, text, environ).config.provider.api_key == Secret("variable")


def test_a_secret_and_its_file_exclude_each_other(path: Path) -> None:
    """Nobody has to guess which of the two holds."""
    text = '[admin]\ntoken = "x"\ntoken_file = "y"\n'
    assert mistakes_of(path, text) == [
        "config.toml:3: admin.token_file: admin.token is set too; keep one of the two"
    ]
    environ = {f"SUNO_VIDEOD_ADMIN__{name}": "x" for name in ("TOKEN", "TOKEN_FILE")}
    assert mistakes_of(path, "", environ | HOME) == [
        "SUNO_VIDEOD_ADMIN__TOKEN_FILE: SUNO_VIDEOD_ADMIN__TOKEN is set too; keep one of the two"
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file or directory"),
        (b"", "the file is empty"),
        (b" \n\n", "the file is empty"),
        (b"one\ntwo\n", "expected one line, not 2"),
        (b"a b", "expected ASCII without blanks"),
        (b"\xff", "expected UTF-8 text"),
        (b"x" * 65_537, "expected at most 65536 bytes"),
    ],
)
def test_a_bad_secret_file_is_one_mistake(path: Path, content: bytes | None, words: str) -> None:
    """It is named with its reason, nothing of its content is, and `trust` is not blamed as well."""
    secret = path.parent / "key"
    if content is not None:
        secret.write_bytes(content)
        secret.chmod(0o600)
    text = '[provider]\napi_key_file = "key"\n[callback]\ntrust = "confirm"\n'
    (line,) = mistakes_of(path, text)
    assert line.startswith(f"config.toml:2: provider.api_key_file: key: {words}")


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o644, 0o666])
def test_a_secret_file_open_to_everyone_is_refused(path: Path, mode: int) -> None:
    """What everyone can read or change is no secret."""
    write_secret(path.parent / "key", "the-key", mode)
    (line,) = mistakes_of(path, '[provider]\napi_key_file = "key"')
    assert line.startswith("config.toml:2: provider.api_key_file: key: everyone can read or change")
    assert line.endswith("run chmod 600 key")


@pytest.mark.parametrize("mode", [0o640, 0o620])
def test_a_secret_file_open_to_its_group_is_a_warning(path: Path, mode: int) -> None:
    """A group may be meant, so it is only said."""
    secret = write_secret(path.parent / "key", "the-key", mode)
    assert load_text(path, '[provider]\napi_key_file = "key"').warnings == (
        f"provider.api_key_file: the group of {secret} can read or change it",
    )


@pytest.mark.parametrize("text", ['[provider]\napi_key = "x"', '[callback]\ntokens = ["' + LONG])
def test_inline_secrets_in_an_open_file_are_a_warning(path: Path, text: str) -> None:
    """A configuration that everyone can read is fine until a secret stands in it."""
    path.write_text(f'{text}"]' if LONG in text else text)
    path.chmod(0o644)
    (warning,) = load(path, HOME).warnings
    name = "callback.tokens" if LONG in text else "provider.api_key"
    assert warning == f"{path}: everyone can read {name}; run chmod 600 {path}"
    path.chmod(0o640)
    assert load(path, HOME).warnings == ()
    path.write_text("[log]\n")
    path.chmod(0o644)
    assert load(path, HOME).warnings == ()


def test_a_folder_of_credentials_beside_the_file_is_read_by_who_may(tmp_path: Path) -> None:
    """Root's verbs see the key that the service is passed; a file that all can read is refused."""
    path, folder = tmp_path / "config.toml", tmp_path / "credentials"
    path.write_text("")
    folder.mkdir()
    key = folder / "provider.api_key"
    key.write_text("key-of-the-account\n")
    key.chmod(0o600)
    loaded = load(path, HOME)
    assert loaded.origins["provider.api_key"] == "credential"
    assert [secret.reveal() for secret in loaded.secrets] == ["key-of-the-account"]
    # What the service is passed is all that it is to have.
    assert load(path, {**HOME, "CREDENTIALS_DIRECTORY": str(tmp_path)}).secrets == ()
    key.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        load(path, HOME)


def test_credentials_supply_what_is_not_given(path: Path) -> None:
    """Credentials of systemd come last and need no line in the file, whatever their mode."""
    folder = path.parent / "credentials"
    folder.mkdir()
    write_secret(folder / "provider.api_key", "from-credential\n", 0o444)
    write_secret(folder / "callback.hmac_keys", f"{LONG}-1\n{LONG}-2\n")
    write_secret(folder / "log.level", "debug")
    environ = {"CREDENTIALS_DIRECTORY": str(folder), **HOME}
    loaded = load_text(path, "", environ)
    assert loaded.config.provider.api_key == Secret("from-credential")
    assert loaded.config.callback.hmac_keys == (Secret(f"{LONG}-1"), Secret(f"{LONG}-2"))
    assert loaded.config.callback.trust == "confirm"
    assert loaded.config.log.level == "info"
    assert loaded.origins["provider.api_key"] == "credential"
    assert loaded.warnings == ()
    given = load_text(path, '[provider]\napi_key = "from-file"', environ)
    assert given.config.provider.api_key == Secret("from-file")


def test_a_bad_credential_is_named(path: Path) -> None:
    """The mistake has the key and the path of the credential."""
    write_secret(path.parent / "admin.token", "two\nlines")
    assert mistakes_of(path, "", {"CREDENTIALS_DIRECTORY": str(path.parent), **HOME}) == [
        "admin.token: admin.token: expected one line, not 2"
    ]


def test_no_message_repeats_a_secret(path: Path) -> None:
    """Neither a mistake nor a warning nor a printed configuration gives a secret away."""
    text = (
        '[provider]\napi_key = "sentinel with blank"\nbase_url = "https://u:sentinel@x.example"\n'
        '[callback]\ntokens = ["sentinel/"]\nhmac_keys = "sentinel"\n'
        '[admin]\ntoken = ["sentinel"]\ntokken = "sentinel"\n'
    )
    lines = mistakes_of(path, text)
    assert len(lines) == 6
    assert "sentinel" not in "".join(lines)
    loaded = load_text(path, '[admin]\ntoken = "sentinel"\n[callback]\ntokens = ["sentinel"]')
    assert "sentinel" not in f"{loaded} {loaded.warnings} {show(loaded)}"
