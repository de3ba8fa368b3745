"""HTTPS without a proxy: a certificate and its key in the configuration."""

import asyncio
import json
import ssl
from pathlib import Path

import pytest
import trustme

from daemon.config.tls import load_tls
from tests.security.wire import place
from tests.stories.harness import TOKEN
from tests.stories.stage import Stage, success


@pytest.fixture
def authority() -> trustme.CA:
    """Whoever signs the certificates of these stories."""
    return trustme.CA()


def issue(authority: trustme.CA, folder: Path) -> dict[str, object]:
    """Write a certificate for this machine and its key; return the settings that name them."""
    issued = authority.issue_cert("127.0.0.1")
    (folder / "chain.pem").unlink(missing_ok=True)
    for chain in issued.cert_chain_pems:
        chain.write_to_path(folder / "chain.pem", append=True)
    issued.private_key_pem.write_to_path(folder / "key.pem")
    (folder / "key.pem").chmod(0o600)
    return {
        "tls_certificate": str(folder / "chain.pem"),
        "tls_private_key": str(folder / "key.pem"),
    }


async def post(url: str, authority: trustme.CA, task_id: str) -> tuple[int, bytes]:
    """Send a callback over TLS and return the status and the certificate that was shown."""
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    reader, writer = await asyncio.open_connection(*place(url), ssl=trusting)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    body = json.dumps(success(task_id, "https://files.example.com/a.mp4")).encode()
    head = f"POST /video-callback/{TOKEN} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}"
    writer.write(f"{head}\r\n\r\n".encode() + body)
    status = int((await reader.readline()).split()[1])
    writer.close()
    return status, shown


async def test_callbacks_come_over_https_without_a_proxy(
    stage: Stage, authority: trustme.CA, tmp_path: Path
) -> None:
    """The listener says https, old versions of TLS are refused, and so is plain HTTP."""
    daemon = await stage.daemon(None, callback=issue(authority, tmp_path))
    assert daemon.callback.startswith("https://")
    assert (await post(daemon.url, authority, "t1"))[0] == 200
    assert (await daemon.task("t1"))["callbacks"] == 1
    reader, writer = await asyncio.open_connection(*place(daemon.url))
    writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    assert b"HTTP/1.1 404" not in await reader.read(100)
    writer.close()
    context = load_tls(tmp_path / "chain.pem", tmp_path / "key.pem")
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    url = (await daemon.run("callback-url")).output
    assert url.startswith("https://")


async def test_a_renewed_certificate_is_used_after_a_restart(
    stage: Stage, authority: trustme.CA, tmp_path: Path
) -> None:
    """A reload reads the files again, finds no mistake, and leaves the open listener alone."""
    daemon = await stage.daemon(None, callback=issue(authority, tmp_path))
    _, first = await post(daemon.url, authority, "t1")
    issue(authority, tmp_path)
    daemon.process.send_signal(1)
    await daemon.says("config.reloaded")
    assert (await post(daemon.url, authority, "t2"))[1] == first
    assert await daemon.stop() == 0
    await daemon.restart()
    assert (await post(daemon.url, authority, "t3"))[1] != first


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        ("no key", "go together"),
        ("missing", "No such file"),
        ("other key", "not the key of"),
        ("no PEM", "expected a certificate chain and its key, in PEM"),
        ("open key", "chmod 600"),
    ],
)
async def test_what_cannot_be_served_is_a_mistake_of_the_configuration(
    stage: Stage, authority: trustme.CA, tmp_path: Path, spoil: str, words: str
) -> None:
    """Found by `config check` and at the start, with the file's name and without its content."""
    settings = issue(authority, tmp_path)
    if spoil == "no key":
        del settings["tls_private_key"]
    elif spoil == "missing":
        (tmp_path / "chain.pem").unlink()
    elif spoil == "other key":
        authority.issue_cert("x").private_key_pem.write_to_path(tmp_path / "key.pem")
    elif spoil == "no PEM":
        (tmp_path / "key.pem").write_text("-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n")
    else:
        (tmp_path / "key.pem").chmod(0o644)
    daemon = await stage.daemon(None, start=False, callback=settings)
    for verb in (["config", "check"], ["serve"]):
        ended = await daemon.run(*verb)
        assert ended.code == 3
        assert "callback.tls_" in ended.errors
        assert words in ended.errors
        assert "c2VjcmV0" not in ended.errors
