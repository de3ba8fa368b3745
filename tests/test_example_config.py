"""`config.example.toml` tells the truth: every key, its real default, and values that work."""

import re
import tomllib
from pathlib import Path

import msgspec
import pytest
import trustme

from daemon.config import load
from daemon.config.sections import ITEM_KEYS, KEYS
from daemon.config.sources import NAMES
from daemon.config.writing import read_template
from daemon.rules.notification import EVENTS

EXAMPLE = Path(__file__).parent.parent / "config.example.toml"
TEXT = EXAMPLE.read_text(encoding="utf-8")
HOME = {"HOME": "/home/somebody"}

COMMENTED = re.compile(r"^# ([a-z_]+ = (?:\"|\[).*)$", re.MULTILINE)


def uncomment(line: str) -> str:
    """Return the example with one commented key brought to life."""
    return TEXT.replace(f"# {line}", line)


def names_in(text: str) -> set[str]:
    """Return the key paths that stand in `text`."""
    found = set()
    for name, content in tomllib.loads(text).items():
        if isinstance(content, dict):
            found |= {f"{name}.{leaf}" for leaf in content}
        else:
            found.add(name)
    return found


def test_the_example_is_part_of_the_program() -> None:
    """What lies at the top for readers is the very file that an installation brings along."""
    assert EXAMPLE.resolve() == EXAMPLE.parent / "daemon" / "config" / "example.toml"
    assert read_template("example") == TEXT


def test_example_gives_the_defaults() -> None:
    """Copying the example changes nothing."""
    assert load(EXAMPLE, HOME).config == load(None, HOME).config
    assert load(EXAMPLE, HOME).warnings == ()


def test_every_key_with_a_fixed_default_stands_in_force() -> None:
    """A commented key has no default of its own, and every other key is shown with its value."""
    fixed = {
        name
        for name, key in KEYS.items()
        if key.default not in (msgspec.NODEFAULT, None, ()) and not key.secret
    }
    live = names_in(TEXT)
    assert fixed <= live
    assert not {name for name in live if KEYS[name].secret}


def test_every_key_stands_in_the_example() -> None:
    """No key, and no file twin of a secret, has to be guessed."""
    whole = TEXT
    for line in COMMENTED.findall(TEXT):
        whole = whole.replace(f"# {line}", line)
    assert names_in(whole) == set(NAMES)


def is_tls(line: str) -> bool:
    """Tell whether a line sets a key that works only beside another."""
    return line.startswith("tls_")


@pytest.mark.parametrize("line", [one for one in COMMENTED.findall(TEXT) if not is_tls(one)])
def test_every_commented_value_works(line: str, tmp_path: Path) -> None:
    """Without the comment sign it is a valid configuration; only placeholders are doubted."""
    for secret_file in re.findall(r'_file = "([a-z_]+)"', line):
        url = "https://" if "url" in secret_file else ""
        (tmp_path / secret_file).write_text(f"{url}sixteen-or-more-characters\n")
        (tmp_path / secret_file).chmod(0o600)
    path = tmp_path / "config.toml"
    path.write_text(uncomment(line))
    path.chmod(0o600)
    loaded = load(path, HOME)
    (name,) = names_in(uncomment(line)) - names_in(TEXT)
    doubted = '"put-' in line and not name.startswith("notify")
    assert [": still the text of" in one for one in loaded.warnings] == [True] * doubted
    assert loaded.origins[name.removesuffix("_file")] != "default"


def test_the_commented_target_works_and_shows_every_key(tmp_path: Path) -> None:
    """Its lines without their comment signs are one [[notify]] that is told everything."""
    (lines,) = re.findall(r"^# \[\[notify\]\]\n(?:#   .*\n)+#   \]\n", TEXT, re.MULTILINE)
    path = tmp_path / "config.toml"
    path.write_text(TEXT.replace(lines, re.sub("^# ", "", lines, flags=re.MULTILINE)))
    path.chmod(0o600)
    loaded = load(path, HOME)
    assert loaded.warnings == ()
    (entry,) = loaded.config.notify
    assert entry.events == EVENTS
    for leaf, key in ITEM_KEYS["notify"].items():
        assert loaded.origins[f"notify[1].{leaf}"] == "file"
        assert not key.secret or f"{leaf}_file" in TEXT


def test_the_commented_certificate_works_with_its_key(tmp_path: Path) -> None:
    """Both comment signs together give a listener that speaks HTTPS."""
    issued = trustme.CA().issue_cert("mv.example.com")
    for chain in issued.cert_chain_pems:
        chain.write_to_path(tmp_path / "fullchain.pem", append=True)
    issued.private_key_pem.write_to_path(tmp_path / "privkey.pem")
    (tmp_path / "privkey.pem").chmod(0o600)
    text = TEXT
    for line in filter(is_tls, COMMENTED.findall(TEXT)):
        text = text.replace(f"# {line}", line)
    path = tmp_path / "config.toml"
    path.write_text(text)
    loaded = load(path, HOME)
    assert loaded.warnings == ()
    assert loaded.config.callback.tls_certificate == tmp_path / "fullchain.pem"
    assert loaded.config.callback.tls_private_key == tmp_path / "privkey.pem"


@pytest.mark.parametrize("key", ["state_dir", "trust", "base_url"])
def test_commented_default_is_the_default(key: str, tmp_path: Path) -> None:
    """Where the comment shows what holds on a plain machine, it does hold there."""
    (line,) = [line for line in COMMENTED.findall(TEXT) if line.startswith(f"{key} = ")]
    path = tmp_path / "config.toml"
    path.write_text(uncomment(line))
    assert load(path, HOME).config == load(None, HOME).config
