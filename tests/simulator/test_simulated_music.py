"""The music of the provider in a box: its tasks, and the audio of its tracks."""

import json
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from daemon.simulator.music import (
    DEAD_AUDIO,
    FAILED_MUSIC,
    FOREIGN_AUDIO,
    FOREIGN_MUSIC,
    UNKNOWN_MUSIC,
)
from daemon.simulator.provider import Kind
from daemon.simulator.simulator import Simulator
from tests.simulator.asking import FAST, KEY, KINDS, NOWHERE, call, fetch, generate, simulate

WISH = {"prompt": "A calm piano", "callBackUrl": NOWHERE, "model": "V5"}


async def ask_music(simulator: Simulator, task_id: str, **headers: str) -> Any:
    """Ask the record-info of a music task and return the whole envelope."""
    path = f"/api/v1/generate/record-info?taskId={task_id}"
    status, answer = await call(simulator, path, headers={**KEY, **headers})
    assert status == 200
    return answer


async def compose(simulator: Simulator, **fields: object) -> Any:
    """Make music and return the whole envelope."""
    status, answer = await call(simulator, "/api/v1/generate", {**WISH, **fields})
    assert status == 200
    return answer


def _is_now_in_milliseconds(told: object) -> bool:
    return isinstance(told, int) and abs(told / 1000 - time.time()) < 5


def _is_text(told: object) -> bool:
    return bool(time.strptime(str(told), "%Y-%m-%d %H:%M:%S"))


@pytest.mark.parametrize(
    ("kind", "is_time"),
    [("sunoapi", _is_now_in_milliseconds), ("apibox", _is_text), ("kie", _is_text)],
)
async def test_music_is_made_at_once(kind: Kind, is_time: Callable[[object], bool]) -> None:
    """Music has two tracks with ids of their own, costs nothing, and is told in camelCase."""
    async with simulate(kind) as simulator:
        answer = await compose(simulator)
        assert (answer["code"], answer["msg"], list(answer["data"])) == (200, "success", ["taskId"])
        task_id = answer["data"]["taskId"]
        record = (await ask_music(simulator, task_id))["data"]
        assert json.loads(record.pop("param")) == WISH
        response = record.pop("response")
        assert record == {
            "taskId": task_id,
            "parentMusicId": "",
            "status": "SUCCESS",
            "type": "GENERATE",
            "errorCode": None,
            "errorMessage": None,
        }
        assert response["taskId"] == task_id
        ids = [track["id"] for track in response["sunoData"]]
        assert len({uuid.UUID(audio_id) for audio_id in ids}) == 2
        for number, track in enumerate(response["sunoData"], start=1):
            url = f"{simulator.base_url}/files/{track['id']}.mp3"
            assert is_time(track.pop("createTime"))
            assert track == {
                "id": ids[number - 1],
                "audioUrl": url,
                "streamAudioUrl": url,
                "imageUrl": None,
                "prompt": "A calm piano",
                "modelName": "simulated",
                "title": f"Simulated song {number}",
                "tags": "silence",
                "duration": 0.42,
            }
        assert simulator.credits == FAST.credits
        assert (await compose(simulator))["data"]["taskId"] != task_id


@pytest.mark.parametrize(("kind", "code"), [("sunoapi", 400), ("apibox", 400), ("kie", 422)])
@pytest.mark.parametrize("missing", ["", None])
async def test_music_needs_a_callback_url(kind: Kind, code: int, missing: str | None) -> None:
    """Without a callback address nothing is made, as has been recorded of kie."""
    async with simulate(kind) as simulator:
        before = dict(simulator.music.tasks)
        answer = await compose(simulator, callBackUrl=missing)
        assert answer == {"code": code, "msg": "Please enter callBackUrl.", "data": None}
        assert (await compose(simulator, prompt=7))["code"] == code
        assert simulator.music.tasks == before


async def test_music_needs_the_key() -> None:
    """Neither making music nor asking about it is free to everybody."""
    async with simulate() as simulator:
        for body in (WISH, None):
            path = "/api/v1/generate" if body else "/api/v1/generate/record-info?taskId=x"
            assert (await call(simulator, path, body, headers={}))[1]["code"] == 401


async def test_links_of_tracks_lead_where_the_simulator_was_reached() -> None:
    """The host of a link is the one by which the client asks."""
    async with simulate() as simulator:
        answer = await ask_music(simulator, FOREIGN_MUSIC, Host="provider.test:81")
        for track in answer["data"]["response"]["sunoData"]:
            assert track["audioUrl"].startswith("http://provider.test:81/files/")


@pytest.mark.parametrize("kind", KINDS)
async def test_definite_noes_have_fixed_ids(kind: Kind) -> None:
    """Music may be unknown, somebody else's, or failed; each has an id to ask for it by."""
    async with simulate(kind) as simulator:
        assert await ask_music(simulator, UNKNOWN_MUSIC) == {
            "code": 200,
            "msg": "success",
            "data": None,
        }
        foreign = (await ask_music(simulator, FOREIGN_MUSIC))["data"]
        assert (foreign["taskId"], foreign["status"]) == (FOREIGN_MUSIC, "SUCCESS")
        tracks = foreign["response"]["sunoData"]
        assert [track["id"] for track in tracks] == [FOREIGN_AUDIO, DEAD_AUDIO]
        statuses = [(await fetch(track["audioUrl"])).status for track in tracks]
        assert statuses == [200, 404]
        failed = (await ask_music(simulator, FAILED_MUSIC))["data"]
        assert (failed["taskId"], failed["status"]) == (FAILED_MUSIC, "GENERATE_AUDIO_FAILED")
        assert (failed["response"], failed["errorCode"]) == (None, 500)
        assert failed["errorMessage"]


async def test_invented_music_is_still_in_the_making() -> None:
    """Any other id is no definite no, so a video of it can be asked for."""
    async with simulate() as simulator:
        record = (await ask_music(simulator, "song-1"))["data"]
        assert record == {
            "taskId": "song-1",
            "parentMusicId": "",
            "param": "{}",
            "response": None,
            "status": "PENDING",
            "type": "GENERATE",
            "errorCode": None,
            "errorMessage": None,
        }
        assert (await generate(simulator, taskId="song-1"))["code"] == 200


@pytest.mark.parametrize(("kind", "code"), [("sunoapi", 400), ("apibox", 400), ("kie", 422)])
async def test_music_without_an_id_is_a_bad_request(kind: Kind, code: int) -> None:
    """record-info has to name a task."""
    async with simulate(kind) as simulator:
        answer = await ask_music(simulator, "")
        assert answer == {"code": code, "msg": "Please enter taskId.", "data": None}


async def test_field_nobody_reads_may_be_no_text() -> None:
    """Bytes that are no UTF-8 where nobody looks do not break the task."""
    async with simulate() as simulator:
        answer = await compose(simulator, title="marked")
        task = simulator.music.tasks[answer["data"]["taskId"]]
        assert "marked" in task.param
        body = json.dumps(WISH).encode().replace(b"V5", b"\xff")
        url = f"{simulator.base_url}/api/v1/generate"
        assert (await fetch(url, KEY, method="POST", data=body)).status == 200


async def test_audio_is_served_whole_and_in_parts() -> None:
    """The audio of a track is a few KiB of MPEG, of which any part can be had."""
    async with simulate() as simulator:
        audio_id = simulator.music.compose("x").audio_ids[0]
        url = f"{simulator.base_url}/files/{audio_id}.mp3"
        whole = await fetch(url)
        assert (whole.status, whole.headers["Content-Type"]) == (200, "audio/mpeg")
        assert whole.headers["Accept-Ranges"] == "bytes"
        assert 2_048 < len(whole.body) < 16_384
        # Every frame of 417 bytes begins with its sync word.
        assert {whole.body[at : at + 2] for at in range(0, len(whole.body), 417)} == {b"\xff\xfb"}
        probe = await fetch(url, {"Range": "bytes=0-0"})
        assert (probe.status, probe.body) == (206, b"\xff")
        assert probe.headers["Content-Range"] == f"bytes 0-0/{len(whole.body)}"
        assert probe.headers["Content-Type"] == "audio/mpeg"
        part = await fetch(url, {"Range": "bytes=415-419"})
        assert (part.body, part.headers["Content-Length"]) == (whole.body[415:420], "5")
        beyond = await fetch(url, {"Range": f"bytes={len(whole.body)}-"})
        assert (beyond.status, beyond.body) == (416, b"")
        assert beyond.headers["Content-Range"] == f"bytes */{len(whole.body)}"
        head = await fetch(url, {"Range": "bytes=0-0"}, method="HEAD")
        assert (head.status, head.body) == (200, b"")
        assert head.headers["Content-Length"] == str(len(whole.body))


async def test_audio_of_nobody_is_404() -> None:
    """Only tracks have audio, and a track in the making is none yet."""
    async with simulate() as simulator:
        for audio_id in ("x", UNKNOWN_MUSIC, FOREIGN_MUSIC, "song-1"):
            assert (await fetch(f"{simulator.base_url}/files/{audio_id}.mp3")).status == 404
