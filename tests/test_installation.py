"""`config init --system`: shown first, written whole, kept up to date, and it loses nothing."""

import os
import re
import shutil
import stat
import subprocess
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path

import pytest

from daemon.config import load
from daemon.installation import (
    CONFIGURATION,
    Facts,
    draw_fence,
    is_hidden,
    plan,
    read_resolvers,
)
from tests.stories.harness import Ended, run_verb

KEY = "the-key-of-the-account"
URL = "https://mv.example.com/video-callback"
MINE = "[provider]\nkind = 'kie'\n"


def tree(root: Path) -> dict[str, tuple[int, bytes]]:
    """Return mode and content of everything below a folder."""
    found = {}
    for path in sorted(root.rglob("*")):
        mode = path.stat(follow_symlinks=False).st_mode
        content = b"" if path.is_dir() or path.is_symlink() else path.read_bytes()
        found[str(path.relative_to(root))] = (mode, content)
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Another system, with a resolver of its own."""
    if os.geteuid():
        pytest.skip("needs root, to give files to others")
    if shutil.which("systemd-sysusers") is None:
        pytest.skip("needs the package systemd")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "resolv.conf").write_text("nameserver 10.20.30.53\n")
    return tmp_path


def init(root: Path, *arguments: str, stdin: str = "") -> Ended:
    """Run the verb for another system."""
    arguments = ("config", "init", "--system", "--root", str(root), *arguments)
    return run_verb(*arguments, stdin=stdin)


def test_without_yes_nothing_is_touched(root: Path) -> None:
    """It names every file with its mode and owner, and says how it is done."""
    before = tree(root)
    shown = init(root, "--public-url", URL)
    assert shown.code == 0
    assert tree(root) == before
    assert f"write     {root}/etc/suno-videod/config.toml  640 root:suno-videod" in shown.output
    assert f"write     {root}/etc/systemd/system/suno-videod.socket  644" in shown.output
    assert "add --yes" in shown.errors


def test_everything_is_written_with_its_mode_and_owner(root: Path) -> None:
    """A service user, units, configuration, key and command; what comes next is said."""
    done = init(root, "--yes", "--public-url", URL, "--api-key-file", "-", stdin=f"{KEY}\n")
    assert done.code == 0, done.errors
    assert KEY not in done.output + done.errors
    assert "systemctl enable --now suno-videod.socket" in done.errors
    modes = {name: stat.S_IMODE(mode) for name, (mode, _) in tree(root).items()}
    assert modes["etc/suno-videod"] == 0o750
    assert modes["etc/suno-videod/config.toml"] == 0o640
    assert modes["etc/suno-videod/credentials"] == 0o700
    assert modes["etc/suno-videod/credentials/provider.api_key"] == 0o600
    assert modes["etc/systemd/system/suno-videod.service"] == 0o644
    assert "suno-videod:" in (root / "etc/passwd").read_text()
    group = re.findall(r"^suno-videod:.*:(\d+):", (root / "etc/group").read_text(), re.MULTILINE)
    assert (root / "etc/suno-videod/config.toml").stat().st_gid == int(group[0])
    assert (root / "etc/suno-videod/credentials").stat().st_gid == 0
    units = root / "etc/systemd/system"
    assert "\nExecStart=/opt/suno-videod/bin/python " in (units / "suno-videod.service").read_text()
    credential = "/etc/suno-videod/credentials/provider.api_key"
    text = (units / "suno-videod.service.d/20-credentials.conf").read_text()
    assert f"\nLoadCredential=provider.api_key:{credential}\n" in text
    assert (root / "usr/local/bin/suno-videod").readlink().name == "suno-videod"
    # Root's own verbs find the key where the service is passed it from.
    loaded = load(root / "etc/suno-videod/config.toml", {})
    assert loaded.config.callback.public_url == URL
    assert str(loaded.config.state_dir) == "/var/lib/suno-videod"
    assert loaded.origins["provider.api_key"] == "credential"
    assert loaded.config.callback.trust == "confirm"
    assert loaded.warnings == ()


def test_the_units_are_units(root: Path) -> None:
    """Systemd reads all of them, drop-ins included."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("needs the package systemd")
    assert init(root, "--yes", "--api-key-file", "-", stdin=KEY).code == 0
    units = root / "etc/systemd/system"
    done = subprocess.run(  # noqa: S603 - reads units
        [program, "verify", "--man=no", str(units / "suno-videod.service")],
        capture_output=True,
        text=True,
        check=False,
    )
    absent = "/opt/suno-videod/bin/python is not executable"
    ours = [line for line in done.stderr.splitlines() if "suno-videod" in line]
    ours = [line for line in ours if absent not in line]
    assert not ours, done.stderr


def test_again_it_changes_nothing(root: Path) -> None:
    """Also without the key, which is there already."""
    assert init(root, "--yes", "--public-url", URL, "--api-key-file", "-", stdin=KEY).code == 0
    before = tree(root)
    again = init(root, "--yes")
    assert again.code == 0
    assert tree(root) == before
    assert set(re.findall("^.{9}", again.output, re.MULTILINE)) == {
        *("as it is ", "leave    ", "run      ")
    }


def test_an_update_brings_units_and_keeps_what_they_were(root: Path) -> None:
    """A unit that was edited in place is shown, replaced, and kept beside the new one."""
    assert init(root, "--yes").code == 0
    unit = root / "etc/systemd/system/suno-videod.service"
    shipped = unit.read_text()
    unit.write_text(shipped.replace("WatchdogSec=90", "WatchdogSec=5"))
    shown = init(root)
    assert "-WatchdogSec=5" in shown.output
    assert "+WatchdogSec=90" in shown.output
    assert init(root, "--yes").code == 0
    assert unit.read_text() == shipped
    assert "WatchdogSec=5\n" in unit.with_name("suno-videod.service.old").read_text()


def test_a_configuration_that_is_there_stays_as_it_is(root: Path) -> None:
    """Not a byte of it is changed, and who wanted to is told."""
    path = root / "etc/suno-videod/config.toml"
    path.parent.mkdir()
    path.write_text(MINE)
    done = init(root, "--yes", "--public-url", URL)
    assert done.code == 0
    assert path.read_text() == MINE
    assert "stays as it is: set callback.public_url in it" in done.errors


def test_a_new_key_replaces_the_old_one_and_leaves_no_copy(root: Path) -> None:
    """A key that was withdrawn lies nowhere any more."""
    for key in ("first-key-of-all", "second-key-of-all"):
        assert init(root, "--yes", "--api-key-file", "-", stdin=key).code == 0
    everything = b"".join(content for _, content in tree(root).values())
    assert b"second-key-of-all" in everything
    assert b"first-key-of-all" not in everything


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "told"),
    [
        (("--yes", "--public-url", "mv.example.com"), "", 2, "--public-url"),
        (("--yes", "--api-key-file", "-"), "", 2, "--api-key-file"),
        (("--yes", "--api-key-file", "-"), "two words", 2, "--api-key-file"),
        (("--yes", "--api-key-file", "/nowhere/key"), "", 2, "No such file"),
        (("--simulator",), "", 2, "choose one"),
    ],
)
def test_bad_input_is_said_before_anything_is_done(
    root: Path, arguments: tuple[str, ...], stdin: str, code: int, told: str
) -> None:
    """Nothing half done is left behind."""
    before = tree(root)
    ended = init(root, *arguments, stdin=stdin)
    assert (ended.code, ended.output) == (code, "")
    assert told in ended.errors
    assert tree(root) == before


def test_a_mistaken_configuration_is_no_ground_to_build_on(root: Path) -> None:
    """All its mistakes are said, and nothing is written."""
    path = root / "etc/suno-videod/config.toml"
    path.parent.mkdir()
    path.write_text("[provider]\nkin = 'kie'\n")
    before = tree(root)
    ended = init(root, "--yes")
    assert ended.code == 3
    assert "provider.kind" in ended.errors
    assert tree(root) == before


def test_the_service_could_not_see_a_home() -> None:
    """ProtectHome= and PrivateTmp= hide what an installation there would need."""
    for place in ("/home/me/venv", "/root/.local/pipx/venvs/suno-videod", "/run/user/1000/x"):
        assert is_hidden(Path(place))
    assert not is_hidden(Path("/opt/suno-videod"))


def fence(settings: str, tmp_path: Path, hosts: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """Return the lines of the drop-in for a configuration, by key."""
    path = tmp_path / "config.toml"
    path.write_text(settings)
    path.chmod(0o600)
    facts = Facts(
        venv=Path("/opt/suno-videod"),
        config=load(path, {}).config,
        public_url=None,
        api_key=None,
        resolvers=["10.20.30.53", "9.9.9.9"],
        credentials=[],
    )
    text = draw_fence(facts, lambda host: hosts.get(host, []))
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE):
        found.setdefault(key, []).extend(value.split())
    return found


def test_the_fence_lets_through_what_is_configured_and_private(tmp_path: Path) -> None:
    """The resolver, a provider behind a private address, a mirror; nothing public is named."""
    settings = (
        "[provider]\nbase_url = 'https://provider.lan'\n"
        "[[notify]]\nurl = 'https://hooks.lan/a-token'\n"
        "[heartbeat]\nurl = 'https://watcher.lan/another-token'\n"
        "[download]\nallow_private = ['172.20.0.0/16', '203.0.114.0/24']\n"
    )
    hosts = {
        "provider.lan": ["192.168.7.7", "8.8.8.8"],
        "hooks.lan": ["10.9.8.7"],
        "watcher.lan": ["fd00::7"],
    }
    found = fence(settings, tmp_path, hosts)
    assert "10.0.0.0/8" in found["IPAddressDeny"]
    assert "8000::/1" in found["IPAddressDeny"]
    allowed = set(found["IPAddressAllow"])
    assert {"10.20.30.53/32", "192.168.7.7/32", "172.20.0.0/16"} <= allowed
    assert {"10.9.8.7/32", "fd00::7/128"} <= allowed
    assert not {"9.9.9.9/32", "8.8.8.8/32", "203.0.114.0/24"} & allowed


def test_the_fence_never_shuts_callbacks_out(tmp_path: Path) -> None:
    """The socket that is shipped is on loopback; a listener on a private address is reached."""
    found = fence("", tmp_path, {})
    assert {"127.0.0.0/8", "::1/128"} <= set(found["IPAddressAllow"])
    assert "SocketBindDeny" not in found
    found = fence("[callback]\nlisten = '0.0.0.0:8080'\n", tmp_path, {})
    for network in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"):
        assert network in found["IPAddressAllow"]
    for network in found["IPAddressAllow"]:
        ip_network(network)


def test_resolvers_are_read_as_the_library_reads_them() -> None:
    """Comments, options and interfaces of link-local addresses are left aside."""
    lines = ("# nameserver 1.2.3.4", "search lan", "nameserver 127.0.0.53", "nameserver x")
    text = "\n".join([*lines, " nameserver fe80::1%eth0", ""])
    assert read_resolvers(text) == ["127.0.0.53", "fe80::1"]


def test_a_plan_never_replaces_a_configuration() -> None:
    """Whatever else changes: that file is its owner's."""
    facts = Facts(
        venv=Path("/opt/suno-videod"),
        config=None,
        public_url=None,
        api_key=None,
        resolvers=[],
        credentials=["admin.token"],
    )
    planned = {one.path: one for one in plan(facts, lambda _: [])}
    assert planned[CONFIGURATION].keep
    text = planned[Path("/etc/systemd/system/suno-videod.service.d/20-credentials.conf")].content
    assert isinstance(text, bytes)
    assert b"LoadCredential=admin.token:/etc/suno-videod/credentials/admin.token\n" in text


@pytest.mark.parametrize("arguments", [(), ("--yes",)])
def test_no_link_leads_out_of_the_other_system(root: Path, arguments: tuple[str, ...]) -> None:
    """An image may hold any link: this machine's own files stay as they are."""
    inside, outside = root / "image", root / "outside"
    (inside / "etc").mkdir(parents=True)
    outside.mkdir()
    (inside / "etc/systemd").symlink_to(outside)
    ended = init(inside, *arguments)
    assert ended.code == 7
    assert "leads out of" in ended.errors
    assert tree(outside) == {}
    assert [*(inside / "etc").iterdir()] == [inside / "etc/systemd"]


def test_a_masked_unit_stays_masked(root: Path) -> None:
    """Somebody did that on purpose; how it is undone is said, and nothing is written."""
    units = root / "etc/systemd/system"
    units.mkdir(parents=True)
    (units / "suno-videod.service").symlink_to("/dev/null")
    before = tree(root)
    ended = init(root, "--yes")
    assert ended.code == 7
    assert "systemctl unmask suno-videod.service" in ended.errors
    assert tree(root) == before
