"""S2-08: keys, tokens and signed queries are in no output that there is, whatever goes wrong.

Each output that a later part adds is scanned here too.
"""

import asyncio
import json
import signal
import time
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import pytest

from daemon.config.secret import Secret
from daemon.rules.notice import sign
from daemon.simulator.faults import ApiFaults, Faults, FileFault, Reply
from daemon.simulator.simulator import Simulator
from tests.stories.harness import API_KEY, TOKEN, Daemon, ask
from tests.stories.stage import Stage, failure, success

SECRETS = {
    "api key": API_KEY,
    "token": TOKEN,
    "old token": "sentinel-of-the-older-token",
    "signing key": "sentinel-of-the-signing-key",
    "admin token": "sentinel-of-the-admin-token",
    "query": "Signature=AbC-secret-query",
}
QUERY = f"?Expires=1&{SECRETS['query']}&x"


async def make_trouble(daemon: Daemon, provider: Simulator) -> None:
    """Let everything go wrong at once that could make a program talk about a link, key or token."""

    async def call_back(task_id: str, body: object) -> None:
        at = int(time.time())
        signature = sign(SECRETS["signing key"], task_id, at)
        seal = {"X-Webhook-Timestamp": str(at), "X-Webhook-Signature": signature}
        assert (await daemon.post(body, headers=seal)).status == 200

    faults = (
        FileFault(),
        FileFault(html=True),
        FileFault(redirect_to=f"http://10.0.0.1/film.mp4{QUERY}"),
        FileFault(redirect_to=QUERY, lasts="always"),
        FileFault(cut_after_bytes=100_000),
        FileFault(status=503, lasts=3),
        FileFault(truncate_to_bytes=50_000),
    )
    for fault in faults:
        task_id = provider.add_task(Faults(callbacks=(), files=(fault,)))
        await call_back(task_id, success(task_id, provider.tasks[task_id].video_url + QUERY))
    for number, start in enumerate(
        (
            "http://127.0.0.1:9/film.mp4",
            "http://10.0.0.1/a",
            "http://[::1/a",
            f"{provider.base_url}/a",
        )
    ):
        await call_back(f"bad-link-{number}", success(f"bad-link-{number}", start + QUERY))
    told = {**failure("told-too-much"), "msg": f"see https://h.example/{QUERY} key {API_KEY}"}
    await call_back("told-too-much", told)
    assert (await daemon.post(success("unsigned", f"https://h.example/{QUERY}"))).status == 401
    root = daemon.callback.removesuffix("/video-callback")
    for path in (
        f"{daemon.callback}/{TOKEN}x",
        f"{root}/{TOKEN}",
        f"{daemon.callback}/{SECRETS['admin token']}",
    ):
        assert (await ask("POST", path)).status == 404
    place = urlsplit(daemon.callback)
    for line in (
        f"POST {place.path}/{TOKEN}{QUERY} HTTP/9",
        f"GET /{SECRETS['old token']}\x01 HTTP/1.1",
    ):
        _, writer = await asyncio.open_connection(place.hostname, place.port)
        writer.write(f"{line}\r\n\r\n".encode())
        await writer.drain()
        writer.close()
    refusal = Reply(raw=json.dumps({"code": 401, "msg": f"no such key: {API_KEY}", "data": None}))
    provider.script_api(ApiFaults(codes=(refusal,)))
    await call_back("asked", {"code": 201, "data": {"task_id": "asked"}})


async def collect(daemon: Daemon) -> dict[str, str]:
    """Return everything that the daemon and its verbs say, by where they say it."""
    said = {}
    task_ids = list(await daemon.tasks())
    held = (await daemon.get("/v1/quarantine"))["quarantine"]
    for path in (
        *("/v1/status", "/v1/tasks", "/v1/export", "/v1/credits", "/v1/quarantine"),
        *("/openapi.json", "/healthz", "/readyz"),
        *(f"/v1/tasks/{task_id}" for task_id in task_ids),
        *(f"/v1/quarantine/{one['id']}" for one in held),
    ):
        said[path] = json.dumps(await daemon.get(path))
    for verb in (
        *(["list"], ["list", "--json"], ["status"], ["status", "--json"], ["check"], ["export"]),
        *(["report"], ["config", "show"], ["config", "show", "--json"], ["config", "check"]),
        *(["show", "told-too-much"], ["show", "bad-link-1", "--json"], ["retry", *task_ids]),
        ["nonsense", API_KEY[:4]],
    ):
        ended = await daemon.run(*verb)
        said[" ".join(verb)] = ended.output + ended.errors
    return said


def leaks(said: dict[str, str], secrets: dict[str, str]) -> list[tuple[str, str]]:
    """Return which secret is in which output."""
    return [
        (name, where)
        for name, secret in secrets.items()
        for where, text in said.items()
        if secret in text
    ]


async def test_s2_08_no_secret_leaves_the_process(stage: Stage) -> None:
    """Not by the log, the admin API, a verb, a stack at SIGABRT, the ledger or a backup of it."""
    provider = await stage.provider(kind="kie")
    daemon = await stage.daemon(
        provider,
        provider={"kind": "kie"},
        callback={
            "trust": "callback",
            "tokens": [TOKEN, SECRETS["old token"]],
            "hmac_keys": [SECRETS["signing key"]],
        },
        admin={"listen": "127.0.0.1:0", "token": SECRETS["admin token"]},
    )
    await make_trouble(daemon, provider)
    await daemon.says("gate.closed", gate="key")
    await daemon.says("download.failed", reason="address_refused")
    await daemon.says("task.moved", to="done")
    await asyncio.sleep(1)
    said = await collect(daemon)
    assert (await daemon.run("backup", str(daemon.folder / "copy.sqlite3"))).code == 0
    daemon.process.send_signal(signal.SIGHUP)
    await daemon.says("config.reloaded")
    # What systemd's watchdog sends: every stack is written, and none with the values in it.
    daemon.process.send_signal(signal.SIGABRT)
    assert await daemon.ended() == -signal.SIGABRT
    said["log"] = "".join(path.read_text() for path in daemon.folder.glob("log-*.txt"))
    (errors,) = daemon.folder.glob("errors-*.txt")
    said["stacks"] = errors.read_text()
    errors.write_text("")
    assert "Current thread" in said["stacks"]
    assert leaks(said, SECRETS) == []
    # Links are kept whole, for they are fetched; keys and tokens have no business in there.
    kept = {
        path.name: path.read_bytes().decode("latin-1")
        for path in (daemon.folder / "copy.sqlite3", *(daemon.folder / "state").iterdir())
        if path.is_file()
    }
    assert "ledger.sqlite3" in kept
    without = {name: secret for name, secret in SECRETS.items() if name != "query"}
    assert leaks(kept, without) == []


async def test_s2_08_secrets_of_files_credentials_and_variables_stay_inside(
    stage: Stage, tmp_path: Path
) -> None:
    """Wherever a secret comes from, it is known as one, and masked where somebody repeats it."""
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "callback.hmac_keys").write_text(f"{SECRETS['signing key']}\n")
    (tmp_path / "tokens").write_text(f"{TOKEN}\n{SECRETS['old token']}\n")
    (tmp_path / "tokens").chmod(0o600)
    daemon = await stage.daemon(
        None, start=False, callback={"tokens": None, "tokens_file": str(tmp_path / "tokens")}
    )
    environ = {
        "CREDENTIALS_DIRECTORY": str(credentials),
        "SUNO_VIDEOD_ADMIN__TOKEN": SECRETS["admin token"],
        "SUNO_VIDEOD_ADMIN__LISTEN": "127.0.0.1:0",
    }
    await asyncio.to_thread(daemon.start, **environ)
    told = {**failure("echo"), "msg": " ".join(SECRETS.values())}
    at = int(time.time())
    seal = {
        "X-Webhook-Timestamp": str(at),
        "X-Webhook-Signature": sign(SECRETS["signing key"], "echo", at),
    }
    assert (await daemon.post(told, headers=seal)).status == 200
    said = await collect(daemon)
    said["log"] = "".join(path.read_text() for path in daemon.folder.glob("log-*.txt"))
    known = {name: secret for name, secret in SECRETS.items() if name != "query"}
    assert leaks(said, known) == []


async def test_s2_08_a_key_that_the_provider_repeats_is_not_kept(stage: Stage) -> None:
    """Nor its beginning, where the text is cut within it."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider)
    for number, told in enumerate((f"the key {API_KEY} is wrong", "x" * 2028 + API_KEY)):
        task_id = provider.add_task(Faults(callbacks=()))
        failed = {"taskId": task_id, "successFlag": "GENERATE_MP4_FAILED", "errorMessage": told}
        raw = json.dumps({"code": 200, "msg": "ok", "data": failed})
        provider.script_api(ApiFaults(codes=(Reply(raw=raw),)))
        await daemon.track(task_id)
        task = await daemon.until(task_id, "failed")
        assert task["message"].endswith(("is wrong", "***")), number
        assert API_KEY[:10] not in task["message"]
    assert await daemon.stop() == 0
    kept = (daemon.folder / "state" / "ledger.sqlite3").read_bytes()
    assert API_KEY[:10].encode() not in kept


async def test_s2_08_a_token_in_the_public_url_is_masked(stage: Stage) -> None:
    """Somebody pasted the whole URL: that is said, and what is shown has no token in it."""
    url = f"https://mv.example.com/video-callback/{TOKEN}"
    daemon = await stage.daemon(None, start=False, callback={"public_url": url})
    check, shown = await daemon.run("config", "check"), await daemon.run("config", "show")
    assert "callback.public_url: expected without the token" in check.errors
    assert TOKEN not in shown.output + check.output + check.errors


def test_s2_08_a_secret_prints_as_a_mask() -> None:
    """By accident nothing shows it: no format, no JSON, no pickle, no error, no dataclass."""
    secret = Secret("sentinel-of-a-value")
    shown = [repr(secret), str(secret), f"{secret}", f"{secret:>9}", f"{secret!s:5}", "%s" % secret]  # noqa: UP031 - as somebody may write it
    shown += [repr([secret]), repr({"key": secret}), str((secret,))]
    assert not any("sentinel" in text for text in shown)
    with pytest.raises(TypeError):
        json.dumps(secret)
    with pytest.raises(TypeError):
        msgspec.json.encode(secret)
    with pytest.raises(TypeError, match="not written"):
        secret.__reduce__()
    assert not hasattr(secret, "__dict__")
