"""The API of the provider in a box, asked through real sockets."""

import asyncio
import math
import re
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from daemon.simulator.faults import ApiFaults, Faults, FileFault, Reply
from daemon.simulator.provider import Kind, SimulatorOptions
from daemon.simulator.simulator import run
from tests.simulator.asking import FAST, KEY, NOWHERE, TRACK, ask, call, generate, post, simulate


def _epoch_milliseconds(at: float) -> int:
    return int(at * 1000)


def _text(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at))


@pytest.mark.parametrize(
    ("kind", "own_field", "told_time", "error_code"),
    [
        ("sunoapi", ("audioId", TRACK["audioId"]), _epoch_milliseconds, None),
        ("apibox", ("musicIndex", 0), _text, None),
        ("kie", ("musicIndex", 0), _text, 200),
    ],
)
async def test_record_has_the_shape_of_its_kind(
    kind: Kind,
    own_field: tuple[str, object],
    told_time: Callable[[float], object],
    error_code: int | None,
) -> None:
    """The kinds differ in the track's field, in the form of times, and in `errorCode`."""
    async with simulate(kind) as simulator:
        task_id = (await generate(simulator))["data"]["taskId"]
        record = (await ask(simulator, task_id))["data"]
        created, completed = record.pop("createTime"), record.pop("completeTime")
        assert record == {
            "taskId": task_id,
            "musicId": TRACK["audioId"],
            "callbackUrl": NOWHERE,
            own_field[0]: own_field[1],
            "response": {"videoUrl": simulator.tasks[task_id].video_url},
            "successFlag": "SUCCESS",
            "errorCode": error_code,
            "errorMessage": None,
        }
        task = simulator.tasks[task_id]
        assert created == told_time(task.created_at)
        assert completed == told_time(task.completes_at)


@pytest.mark.parametrize(("kind", "code"), [("sunoapi", 400), ("apibox", 400), ("kie", 422)])
@pytest.mark.parametrize(
    "fields",
    [
        {"callBackUrl": None},
        {"callBackUrl": ""},
        {"callBackUrl": "ftp://example.org/"},
        {"callBackUrl": "http://"},
        {"callBackUrl": "http://[x"},
        {"taskId": ""},
        {"audioId": 7},
        {"author": "A" * 51},
        {"domainName": "A" * 51},
    ],
    ids=str,
)
async def test_bad_field_is_refused(kind: Kind, code: int, fields: dict[str, object]) -> None:
    """A missing, odd or long field is refused with the kind's code, and nothing is charged."""
    async with simulate(kind) as simulator:
        answer = await generate(simulator, **fields)
        assert (answer["code"], answer["data"]) == (code, None)
        assert simulator.credits == FAST.credits
        assert simulator.tasks == {}


@pytest.mark.parametrize("body", [b"{", b"\xff", b'{"taskId": "\xff"}'])
async def test_body_that_is_no_json_is_refused(body: bytes) -> None:
    """A body that cannot be read is code 400 at every kind."""
    async with (
        simulate("kie") as simulator,
        aiohttp.request(
            "POST", f"{simulator.base_url}/api/v1/mp4/generate", data=body, headers=KEY
        ) as response,
    ):
        assert (response.status, (await response.json())["code"]) == (200, 400)


@pytest.mark.parametrize(("kind", "code"), [("sunoapi", 409), ("apibox", 409), ("kie", 422)])
async def test_second_video_of_a_track_is_refused(kind: Kind, code: int) -> None:
    """One track has one video: sunoapi names the existing task, kie does not."""
    async with simulate(kind) as simulator:
        task_id = (await generate(simulator))["data"]["taskId"]
        again = await generate(simulator)
        assert (again["code"], again["msg"]) == (code, "Mp4 record already exists")
        assert again["data"] == (None if kind == "kie" else {"taskId": task_id})
        assert (await generate(simulator, audioId="other"))["code"] == 200
        assert len(simulator.tasks) == 2


@pytest.mark.parametrize(
    ("kind", "code", "path", "left"),
    [
        ("sunoapi", 429, "/api/v1/generate/credit", 1),
        ("apibox", 429, "/api/v1/generate/credit", 1),
        ("kie", 402, "/api/v1/chat/credit", 1.5),
    ],
)
async def test_credits_run_out(kind: Kind, code: int, path: str, left: float) -> None:
    """A video costs credits, and without them the kind's own code comes with HTTP 200."""
    async with simulate(kind, credits=5.25) as simulator:
        assert (await generate(simulator))["code"] == 200
        assert (await call(simulator, path))[1] == {"code": 200, "msg": "success", "data": left}
        assert (await generate(simulator, audioId="other"))["code"] == code


async def test_credits_are_told_at_the_path_of_the_kind() -> None:
    """The credit path of another kind is HTTP 404."""
    async with simulate("kie") as simulator:
        url = f"{simulator.base_url}/api/v1/generate/credit"
        async with aiohttp.request("GET", url, headers=KEY) as response:
            assert response.status == 404


@pytest.mark.parametrize(
    ("configured", "header", "code"),
    [
        ("key", "Bearer key", 200),
        ("key", "bearer key", 200),
        ("key", "Bearer other", 401),
        ("key", "Basic key", 401),
        ("key", "key", 401),
        ("key", "", 401),
        (None, "Bearer anything", 200),
        (None, "Bearer ", 401),
        (None, "", 401),
    ],
)
async def test_key_is_asked_for(configured: str | None, header: str, code: int) -> None:
    """The configured key is needed, or any; a refusal is HTTP 200 with code 401 and no data."""
    async with simulate(api_key=configured) as simulator:
        status, answer = await call(
            simulator, "/api/v1/generate/credit", headers={"Authorization": header}
        )
        assert (status, answer["code"]) == (200, code)
        assert ("data" in answer) == (code == 200)


@pytest.mark.parametrize(("kind", "code"), [("sunoapi", 400), ("kie", 422)])
async def test_unknown_task_has_no_record(kind: Kind, code: int) -> None:
    """An unknown id is code 200 with data null; no id is a bad request."""
    async with simulate(kind) as simulator:
        assert await ask(simulator, "f" * 32) == {"code": 200, "msg": "success", "data": None}
        assert (await ask(simulator, ""))["code"] == code


@pytest.mark.parametrize("with_link", [True, False])
async def test_callback_exception_may_have_a_link(with_link: bool) -> None:  # noqa: FBT001
    """CALLBACK_EXCEPTION comes with the film's link or without."""
    async with simulate() as simulator:
        faults = Faults(outcome="CALLBACK_EXCEPTION", with_link=with_link)
        record = (await ask(simulator, simulator.add_task(faults)))["data"]
        assert record["successFlag"] == "CALLBACK_EXCEPTION"
        assert (record["response"] is not None) == with_link


async def test_next_faults_hold_for_one_generation() -> None:
    """Faults set in Python win over the audio id, once, and only for an accepted call."""
    async with simulate() as simulator:
        faults = Faults(files=(FileFault(status=410),))
        simulator.next_faults = faults
        assert (await generate(simulator, author="A" * 51))["code"] == 400
        first = (await generate(simulator, audioId="sim-failure"))["data"]["taskId"]
        second = (await generate(simulator))["data"]["taskId"]
        assert simulator.tasks[first].faults is faults
        assert simulator.tasks[second].faults == Faults()


async def test_lost_answer_leaves_a_task_behind() -> None:
    """The connection breaks although the task exists, and asking again names it."""
    async with simulate() as simulator:
        with pytest.raises(aiohttp.ClientError):
            await generate(simulator, audioId="sim-lost-answer")
        again = await generate(simulator, audioId="sim-lost-answer")
        assert again["code"] == 409
        assert list(simulator.tasks) == [again["data"]["taskId"]]


async def test_record_info_follows_a_script_of_replies() -> None:
    """Each scripted reply is given once, in order; then the truth."""
    replies = (
        Reply(code=455),
        Reply(),
        Reply(flag="PENDING"),
        Reply(flag="GENERATE_MP4_FAILED"),
        Reply(flag="SUCCESS"),
    )
    async with simulate() as simulator:
        task_id = simulator.add_task(Faults(replies=replies))
        answers = [await ask(simulator, task_id) for _ in range(6)]
    assert answers[0] == {"code": 455, "msg": "Service under maintenance", "data": None}
    assert answers[1] == {"code": 200, "msg": "success", "data": None}
    flags = [answer["data"]["successFlag"] for answer in answers[2:]]
    assert flags == ["PENDING", "GENERATE_MP4_FAILED", "SUCCESS", "SUCCESS"]
    links = [answer["data"]["response"] is not None for answer in answers[2:]]
    assert links == [False, False, True, True]


async def test_reply_can_be_raw_late_or_cut() -> None:
    """A reply may be any body with any status and Retry-After, may come late or not at all."""
    replies = (
        Reply(raw="<html>", status=502),
        Reply(status=429, retry_after="3"),
        Reply(delay_seconds=0.2),
        # Two, for aiohttp's client asks a second time by itself.
        Reply(cut=True),
        Reply(cut=True),
    )
    async with simulate() as simulator:
        url = f"{simulator.base_url}/api/v1/mp4/record-info?taskId="
        url += simulator.add_task(Faults(replies=replies))
        async with aiohttp.request("GET", url, headers=KEY) as response:
            assert (response.status, await response.read()) == (502, b"<html>")
        async with aiohttp.request("GET", url, headers=KEY) as response:
            assert (response.status, response.headers["Retry-After"]) == (429, "3")
        began = time.monotonic()
        async with aiohttp.request("GET", url, headers=KEY) as response:
            assert response.status == 200
        assert time.monotonic() - began >= 0.2
        with pytest.raises(aiohttp.ClientError):
            async with aiohttp.request("GET", url, headers=KEY):
                pass
        async with aiohttp.request("GET", url, headers=KEY) as response:
            assert (await response.json())["data"]["successFlag"] == "SUCCESS"


@pytest.mark.parametrize(
    ("kind", "code", "status"),
    [("sunoapi", 429, 200), ("sunoapi", 430, 200), ("kie", 429, 429), ("kie", 402, 200)],
)
async def test_only_the_rate_limiter_of_kie_is_an_http_status(
    kind: Kind, code: int, status: int
) -> None:
    """Errors are HTTP 200 with a code in the body; kie's 429 is a real one."""
    async with simulate(kind) as simulator:
        simulator.script_api(ApiFaults(codes=(code,)))
        answer = await call(simulator, "/api/v1/mp4/record-info?taskId=x")
        assert (answer[0], answer[1]["code"]) == (status, code)


async def test_running_simulator_is_scripted_over_http() -> None:
    """A posted script holds for the next calls below its path, without an effect of theirs."""
    async with simulate() as simulator:
        codes = [401, {"code": 455, "status": 503}]
        script = {"codes": codes, "repeat": 2, "path": "/api/v1/mp4/generate"}
        assert (await call(simulator, "/simulator/api-faults", script))[0] == 204
        body = {**TRACK, "callBackUrl": NOWHERE}
        assert (await call(simulator, "/api/v1/generate/credit"))[1]["code"] == 200
        answers = [await call(simulator, "/api/v1/mp4/generate", body) for _ in range(5)]
        told = [(status, answer["code"]) for status, answer in answers]
        assert told == [*[(200, 401), (503, 455)] * 2, (200, 200)]
        assert len(simulator.tasks) == 1


async def test_script_without_codes_ends_the_script() -> None:
    """Another script takes the place of the one before, so an empty one ends an outage."""
    async with simulate() as simulator:
        simulator.script_api(ApiFaults(codes=(500,), repeat=1_000_000))
        assert (await call(simulator, "/api/v1/generate/credit"))[1]["code"] == 500
        await call(simulator, "/simulator/api-faults", {"codes": []})
        assert (await call(simulator, "/api/v1/generate/credit"))[1]["code"] == 200


@pytest.mark.parametrize(
    "script",
    [{}, {"codes": ["x"]}, {"codes": [500], "repeat": 0}, {"codes": [500], "times": 3}, "{"],
    ids=str,
)
async def test_script_that_cannot_be_read_changes_nothing(script: object) -> None:
    """A mistake in a script is answered with 400 and the place of the mistake."""
    async with simulate() as simulator:
        status, answer = await call(simulator, "/simulator/api-faults", script)
        assert (status, list(answer)) == (400, ["error"])
        assert (await call(simulator, "/api/v1/generate/credit"))[1]["code"] == 200


async def test_links_lead_where_the_simulator_was_reached() -> None:
    """A link has the host by which the client knows the simulator, not the bound address."""
    async with simulate() as simulator:
        body = {**TRACK, "callBackUrl": NOWHERE}
        headers = {**KEY, "Host": "provider.test:81"}
        _, answer = await call(simulator, "/api/v1/mp4/generate", body, headers)
        record = (await ask(simulator, answer["data"]["taskId"]))["data"]
        assert record["response"]["videoUrl"].startswith("http://provider.test:81/files/")


@pytest.mark.parametrize(
    ("host", "pattern"),
    [("127.0.0.1", r"http://127\.0\.0\.1:[1-9]\d*"), ("::1", r"http://\[::1\]:[1-9]\d*")],
)
async def test_program_announces_its_address_and_stops(host: str, pattern: str) -> None:
    """The program says where it listens, answers there, and ends when it is told to."""
    stop = asyncio.Event()
    announced: asyncio.Queue[str] = asyncio.Queue()
    program = asyncio.create_task(
        run(FAST, post, host=host, port=0, stop=stop, announce=announced.put_nowait)
    )
    base_url = await asyncio.wait_for(announced.get(), 5)
    assert re.fullmatch(pattern, base_url)
    async with aiohttp.request("GET", f"{base_url}/simulator/requests") as response:
        assert response.status == 200
    stop.set()
    await asyncio.wait_for(program, 5)
    with pytest.raises(aiohttp.ClientConnectorError):
        async with aiohttp.request("GET", base_url):
            pass


async def test_program_stops_in_the_middle_of_a_stalled_download() -> None:
    """A client that hangs on a stalled file does not hold up the end."""
    async with simulate() as simulator:
        faults = Faults(files=(FileFault(stall_after_bytes=10),))
        url = simulator.tasks[simulator.add_task(faults)].video_url
        session = aiohttp.request("GET", url)
        response = await session.__aenter__()
        assert await response.content.readexactly(10)
        began = time.monotonic()
    assert time.monotonic() - began < 3
    with pytest.raises(aiohttp.ClientError):
        await response.read()
    await session.__aexit__(None, None, None)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"hmac_key": "k"}, "sunoapi does not sign callbacks"),
        ({"file_size_bytes": 10}, "no faststart film has 10 bytes"),
        ({"render_seconds": -0.5}, "render_seconds has to be 0 or more, not -0.5"),
        ({"render_seconds": math.inf}, "render_seconds has to be 0 or more, not inf"),
        ({"credits": -1}, "credits has to be 0 or more, not -1"),
        ({"credits": math.nan}, "credits has to be 0 or more, not nan"),
        ({"bytes_per_second": -1}, "bytes_per_second has to be 1 or more, not -1"),
        ({"bytes_per_second": 0}, "bytes_per_second has to be 1 or more, not 0"),
    ],
    ids=str,
)
def test_impossible_options_are_refused(options: dict[str, Any], said: str) -> None:
    """What cannot be simulated is said before anything starts."""
    with pytest.raises(ValueError, match=f"^{re.escape(said)}"):
        SimulatorOptions(**options)


def test_smallest_options_are_taken() -> None:
    """A film may be there at once, the account empty, and a download as slow as can be."""
    SimulatorOptions(render_seconds=0, credits=0, bytes_per_second=1)


def test_options_do_not_show_their_keys() -> None:
    """No key stands in the printed form."""
    printed = repr(SimulatorOptions(kind="kie", api_key="secret-1", hmac_key="secret-2"))
    assert "secret" not in printed
