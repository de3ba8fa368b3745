"""S2: what a callback can do, and what whoever forges one cannot."""

import asyncio
import base64
import json
import time
from pathlib import Path

import pytest

from daemon import callback
from daemon.config import ConfigError, load
from daemon.rules.notice import check_token, sign
from daemon.simulator.faults import FORGED_FILE, Faults
from tests.security.wire import request, say
from tests.stations.listening import TOKEN, open_desk, success
from tests.stories.stage import Stage, check_film, paths, questions
from tests.stories.stage import success as told

EVIL = "https://evil-host.net/film.mp4?signature=abc"
KEYS = '[callback]\nhmac_keys = ["the-new-key-of-kie", "the-old-key-of-kie"]'


async def test_s2_01_under_confirm_a_forged_link_is_never_dialled(stage: Stage) -> None:
    """The provider is asked once, and what it says is fetched; the forger's host hears nothing."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider)
    task_id = provider.add_task()
    forged = f"{provider.base_url}{FORGED_FILE}"
    assert (await daemon.post(told(task_id, forged))).status == 200
    await daemon.until(task_id)
    check_film(daemon, provider, task_id)
    assert questions(provider, task_id) == 1
    assert paths(provider)[FORGED_FILE] == 0


def test_s2_01_an_unknown_trust_is_no_configuration(tmp_path: Path) -> None:
    """A mistyped word does not fall back to believing everything."""
    path = tmp_path / "config.toml"
    path.write_text('[callback]\ntrust = "cofirm"\n')
    with pytest.raises(ConfigError, match="trust"):
        load(path, {"HOME": str(tmp_path)})


@pytest.mark.parametrize(
    "candidate",
    [
        "",
        "x",
        TOKEN[:-1],
        f"{TOKEN}x",
        TOKEN.upper(),
        f" {TOKEN}",
        "t\u00f6ken",
        "\udcff",
        "x" * 3000,
        f"{TOKEN}\x00",
        f"{TOKEN}/",
        "%00",
        "..",
        "\u202e",
    ],
)
def test_s2_02_only_the_token_opens(candidate: str) -> None:
    """Whatever stands in the path is compared as bytes, and never raises."""
    assert not check_token(candidate, [TOKEN])
    assert check_token(TOKEN, ["another", TOKEN])


async def test_s2_02_a_wrong_token_and_a_wrong_path_look_the_same(tmp_path: Path) -> None:
    """A scanner learns nothing: same status, same headers, same body."""
    tries = [
        "POST /video-callback/wrong",
        "POST /video-callback/%ff%fe",
        "POST /video-callback/",
        f"POST /video-callback/{TOKEN}/x",
        f"POST //video-callback/{TOKEN}",
        f"POST /x/../video-callback/{TOKEN}",
        "GET /healthz",
        "GET /v1/status",
        "GET /metrics",
        "POST /api/v1/mp4/generate",
        f"GET /video-callback/{TOKEN}",
        f"DELETE /video-callback/{TOKEN}",
    ]
    answers = set()
    async with open_desk(tmp_path) as desk:
        for number, line in enumerate(tries):
            headers = (f"X-Forwarded-For: 203.0.113.{number}", "Connection: close")
            heard = await say(desk.url, request(line, *headers))
            lines = heard.text.split("\r\n")
            answers.add("\n".join(one for one in lines if not one.startswith("Date:")))
    assert len(answers) == 1
    assert answers.pop().startswith("HTTP/1.1 404 ")


async def test_s2_03_a_signature_holds_for_its_task_and_its_time(tmp_path: Path) -> None:
    """Missing, bent, doubled, old and early ones are a 401 that leaves nothing behind."""
    now = int(time.time())
    good = sign("the-new-key-of-kie", "t1", now)
    at, by = "X-Webhook-Timestamp", "X-Webhook-Signature"
    garbage = base64.b64encode(base64.b64decode(good) + b"x").decode()
    cases = [
        [],
        [f"{at}: {now}"],
        [f"{by}: {good}"],
        [f"{at}: {now}", f"{by}: {good[:-2]}"],
        [f"{at}: {now}", f"{by}: {garbage}"],
        [f"{at}: {now}", f"{by}: {good[:4]} {good[4:]}"],
        [f"{at}: {now}", f"{by}: {good}", f"{by}: {good}"],
        [f"{at}: {now}", f"{at}: {now}", f"{by}: {good}"],
        [f"{at}: {now}.0", f"{by}: {good}"],
        [f"{at}: +{now}", f"{by}: {good}"],
        [f"{at}: {'9' * 40}", f"{by}: {good}"],
        [f"{at}: {now}", f"{by}: {sign('another-key', 't1', now)}"],
        [f"{at}: {now}", f"{by}: {sign('the-new-key-of-kie', 't2', now)}"],
        *(
            [f"{at}: {now + off}", f"{by}: {sign('the-new-key-of-kie', 't1', now + off)}"]
            for off in (-310, 310)
        ),
    ]
    body = json.dumps(success("t1")).encode()
    line = f"POST /video-callback/{TOKEN}"
    async with open_desk(tmp_path, KEYS) as desk:
        for headers in cases:
            heard = await say(desk.url, request(line, *headers, "Connection: close", body=body))
            assert heard.status == 401, headers
        assert sum((await desk.store.counts()).values()) == 0
        assert await desk.store.quarantine.page(9) == []
        for key in ("the-new-key-of-kie", "the-old-key-of-kie"):
            headers = [f"{at}: {now}", f"{by}: {sign(key, 't1', now)}", "Connection: close"]
            assert (await say(desk.url, request(line, *headers, body=body))).status == 200


async def test_s2_03_a_signed_callback_with_another_link_changes_no_download(stage: Stage) -> None:
    """kie.ai signs id and time alone, so under a good signature the body is still a hint."""
    key = "the-key-of-kie-in-this-test"
    provider = await stage.provider(kind="kie")
    daemon = await stage.daemon(provider, provider={"kind": "kie"}, callback={"hmac_keys": [key]})
    task_id = provider.add_task()
    now = int(time.time())
    signed = {"X-Webhook-Timestamp": str(now), "X-Webhook-Signature": sign(key, task_id, now)}
    body = told(task_id, f"{provider.base_url}{FORGED_FILE}")
    for _ in range(2):
        assert (await daemon.post(body, headers=signed)).status == 200
    await daemon.until(task_id)
    check_film(daemon, provider, task_id)
    assert paths(provider)[FORGED_FILE] == 0


async def test_s2_04_what_was_answered_is_on_the_disk(stage: Stage) -> None:
    """The process is killed the moment the 200 arrives; the next one knows the task."""
    daemon = await stage.daemon(None)
    for number in range(5):
        assert (await daemon.post(told(f"t{number}", EVIL))).status == 200
        await asyncio.to_thread(daemon.kill)
        await daemon.restart()
        assert (await daemon.task(f"t{number}"))["callbacks"] == 1


TORTURE = [
    b'{"data":{"task_id":"t","video_url":NaN},"code":NaN}',
    b'{"data":{"task_id":"t"},"code":1e999}',
    b'{"data":{"task_id":"t"},"code":' + b"9" * 5000 + b"}",
    b'{"data":{"task_id":"\\ud800"}}',
    b'{"data":{"task_id":"t","video_url":"\\ud800"},"msg":"\\udfff","code":200}',
    '{"data":{"task_id":"t"}}'.encode("utf-16"),
    '{"data":{"task_id":"t"}}'.encode("utf-32"),
    b"\xef\xbb\xbf" + b'{"data":{"task_id":"t"}}',
    b"[" * 30_000,
    b'{"a":' * 10_000,
    b'{"data":[],"code":200}',
    b'{"data":{"task_id":["t"]}}',
    b'{"data":{"task_id":{"$ne":1}}}',
    b'{"data":{"task_id":true}}',
    b'{"data":{"task_id":"../../etc/passwd"}}',
    b'{"data":{"task_id":"' + b"x" * 200 + b'"}}',
    b'{"data":{"task_id":"t\\u0000"}}',
    b'{"data":{"task_id":"t\\n"}}',
    b'{"code":true,"data":{"task_id":"t"}}',
    b'{"code":[200],"data":{"task_id":"t"}}',
    b'{"code":200,"data":{"task_id":"t","video_url":["https://a.example/x"]}}',
    b'{"code":200,"data":{"task_id":"t","video_url":{"url":"https://a.example/x"}}}',
    b'{"code":200,"data":{"task_id":"t","video_url":7}}',
    b'{"code":200,"msg":{"a":[1]},"data":{"task_id":"t"}}',
    b'{"code":200,"msg":"' + b"m" * 60_000 + b'","data":{"task_id":"t"}}',
    b'{"data":{"task_id":"t"}} trailing',
    b"0",
    b'"text"',
    b"",
    b"\x00",
    b"\xff" * 1000,
]


@pytest.mark.parametrize("charset", ["utf-8", "utf-7", "unicode_escape", "rot13", "punycode", "no"])
async def test_s2_05_no_body_and_no_charset_gives_an_error_of_ours(
    tmp_path: Path, charset: str
) -> None:
    """Each is taken, as a callback or into quarantine, and none costs a task its state."""
    async with open_desk(tmp_path) as desk:
        for body in TORTURE:
            headers = {"Content-Type": f"application/json; charset={charset}"}
            assert (await desk.post(body, headers=headers))[0] == 200, body[:60]
        tasks = await desk.store.tasks((), 99, None)
        assert {task.task_id for task in tasks} == {"t"}
        assert all(task.state == "expected" and task.link is None for task in tasks)
        assert all(len(task.message or "") <= 2048 for task in tasks)


async def test_s2_06_the_answers_are_a_closed_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kind of refusal has its one status; nothing redirects."""
    monkeypatch.setattr(callback, "BODY_SECONDS", 0.3)
    line, close = f"POST /video-callback/{TOKEN}", "Connection: close"
    async with open_desk(tmp_path) as desk:
        for expected, raw in (
            (200, request(line, close, body=b'{"data":{"task_id":"t"}}')),
            (200, request(line, close, body=b'{"data":{"task_id":"t"}}')),
            (200, request(line, close, body=b"unreadable")),
            (404, request("POST /elsewhere", close, body=b"{}")),
            (404, request(line.replace("POST", "PUT"), close, body=b"{}")),
            (408, request(line, "Content-Length: 9", framed=False)),
            (413, request(line, close, body=b"x" * 65_537)),
            (415, request(line, "Content-Encoding: br", close, body=b"x")),
        ):
            assert (await say(desk.url, raw)).status == expected
        guess = request("POST /video-callback/guess", close)
        assert [(await say(desk.url, guess)).status for _ in range(5)] == [404] * 5
        heard = await say(desk.url, guess)
        assert (heard.status, "Retry-After: 60" in heard.text) == (429, True)
    async with open_desk(tmp_path, run_intake=False) as desk:
        monkeypatch.setattr(callback, "COMMIT_SECONDS", 0.3)
        assert (await desk.post(success("t2")))[0] == 503


async def test_s2_07_made_up_ids_starve_nobody_and_are_asked_about_once_at_a_time(
    stage: Stage,
) -> None:
    """Hundreds of forged ids stand before a tracked task, and it is asked about at once."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider, provider={"requests_per_second": 5.0})
    forged = [f"forged-{number}" for number in range(300)]
    answers = await asyncio.gather(*(daemon.post(told(one, EVIL)) for one in forged))
    assert {answer.status for answer in answers} == {200}
    task_id = provider.add_task()
    await daemon.track(task_id)
    began = time.monotonic()
    await daemon.until(task_id)
    assert time.monotonic() - began < 10
    asked = sum(questions(provider, one) for one in forged)
    assert asked <= 5 * (time.monotonic() - began) + 60
    assert max(questions(provider, one) for one in forged) <= 2


async def test_s2_07_fifty_copies_at_once_are_few_questions(stage: Stage) -> None:
    """However many callbacks speak of a task, one question at a time is on its way."""
    provider = await stage.provider()
    daemon = await stage.daemon(provider)
    task_id = provider.add_task(Faults(callbacks=()), finished=False)
    body = told(task_id, EVIL)
    answers = await asyncio.gather(*(daemon.post(body) for _ in range(50)))
    assert {answer.status for answer in answers} == {200}
    assert (await daemon.task(task_id))["callbacks"] == 50
    assert questions(provider, task_id) <= 5
