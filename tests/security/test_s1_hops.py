"""S1-07 to S1-09: no proxy, no password, no key and no cookie, on the first hop and on the next."""

import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from aiohttp import web

from daemon.config import environment
from daemon.config.secret import Secret
from daemon.outbound import api_session, get_file, read_answer
from daemon.outbound import file_session as open_files
from daemon.rules.address import AddressRefused
from daemon.rules.failure import Reason, Refused, Trouble
from tests.security.door import LAX, STRICT, Names, redirecting, trusting, try_chain
from tests.security.hosts import LOOPBACK, answer, fetch, host
from tests.stories.harness import API_KEY
from tests.stories.stage import Stage, success

ROOT = Path(__file__).parent.parent.parent
CDN = "https://cdn.provider-files.com/v.mp4"
PUBLIC = {"*": ["93.184.215.14"]}
FEW = {"host", "connection", "user-agent", "accept-encoding", "range", "if-range"}
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")

TWO_CALLS = """
import asyncio, sys
from daemon.outbound import api_session, read_answer
from tests.security.hosts import fetch

async def main(port):
    print(await fetch(port))
    async with api_session(f"http://127.0.0.1:{port}/", lambda: None) as session:
        print(await read_answer(await session.get("credit")))

asyncio.run(main(int(sys.argv[1])))
"""


def names_of(request: bytes) -> set[str]:
    """Return the names of a request's headers."""
    lines = request.decode().split("\r\n")[1:-2]
    return {line.partition(":")[0].lower() for line in lines}


async def test_s1_07_the_environment_names_no_proxy_and_no_password(tmp_path: Path) -> None:
    """A real process whose environment has all of them dials the host itself, without a word."""
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\ndefault login me password x\n")
    netrc.chmod(0o600)
    heard: list[bytes] = []
    proxied: list[bytes] = []
    async with host(answer(b"film"), heard=heard) as port, host(b"", heard=proxied) as proxy:
        told = dict.fromkeys(PROXIES, f"http://me:secret@127.0.0.1:{proxy}")
        told |= {"NETRC": str(netrc), "HOME": str(tmp_path), "no_proxy": "", "NO_PROXY": ""}
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", TWO_CALLS, str(port)),
            env={**environment(), **told},
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await child.communicate()
    assert output.split() == [b"b'film'", b"b'film'"]
    assert len(heard) == 2
    assert not proxied
    assert not {"authorization", "proxy-authorization"} & names_of(b"".join(heard))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_s1_08_the_second_hop_hears_the_same_few_headers(status: int) -> None:
    """No cookie that the first one set, no Referer, no key; Range and If-Range travel."""
    chain = [CDN, "https://edge.provider-files.com/a", "https://edge.provider-files.com/b"]
    wish = {"Range": "bytes=9-", "If-Range": '"v"', "Authorization": "Bearer k", "Cookie": "a=b"}
    async with redirecting(chain[1:], status) as door:
        opened = open_files(
            lambda: STRICT,
            *(5, 5, 4),
            tls=trusting(),
            resolver=Names(PUBLIC),
            open_socket=door.open_socket,
        )
        async with opened as session:
            with pytest.raises(Trouble):
                async with get_file(session, CDN, STRICT, wish):
                    pass
    assert door.reached
    assert [names_of(request) for request in door.served] == [FEW, FEW]
    assert all(request.startswith(b"GET ") for request in door.served)
    assert b"Host: edge.provider-files.com\r\n" in door.served[1]


@pytest.mark.parametrize("status", [200, 300, 304, 305, 306, 399])
async def test_s1_08_no_other_status_is_followed(status: int) -> None:
    """A Location beside them is only a header."""
    heard: list[bytes] = []
    head = f"HTTP/1.1 {status} X\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n".encode()
    async with host(head, heard=heard) as port:
        await fetch(port)
    assert len(heard) == 1


@pytest.mark.parametrize("more", [(), ("URI: http://127.0.0.1:{port}/b",), ("Refresh: 0; url=/b",)])
async def test_s1_08_location_is_the_only_way_on(more: tuple[str, ...]) -> None:
    """A redirect by any other header leads nowhere."""
    heard: list[bytes] = []
    async with host(answer(b"film"), heard=heard) as port:
        headers = [line.format(port=port) for line in more]
        async with host(answer(b"", *headers, status="302 Go")) as first:
            with pytest.raises(Refused, match="without saying where"):
                await fetch(first)
    assert not heard


async def test_s1_08_five_redirects_and_no_sixth() -> None:
    """The sixth link is the last one that is dialled."""
    hops = [f"https://edge.provider-files.com/{number}" for number in range(6)]
    door, _ = await try_chain([CDN, *hops[:5]], STRICT, Names(PUBLIC))
    assert door.reached
    door, failure = await try_chain([CDN, *hops], STRICT, Names(PUBLIC))
    assert not door.reached
    assert len(door.dialled) == 6
    assert failure.reason is Reason.LINK_REFUSED


@pytest.mark.parametrize(
    "hops",
    [
        ["/v.mp4"],
        ["#again"],
        ["https://CDN.provider-files.com:443/v.mp4#x"],
        ["https://edge.provider-files.com/", "https://edge.provider-files.com"],
        ["https://edge.provider-files.com/", CDN],
    ],
)
async def test_s1_08_no_place_is_visited_twice(hops: list[str]) -> None:
    """However it is spelled."""
    door, failure = await try_chain([CDN, *hops, "/never"], STRICT, Names(PUBLIC))
    assert not door.reached
    assert len(door.dialled) == len(hops)
    assert "circle" in failure.message


@pytest.mark.parametrize("hop", ["http://edge.provider-files.com/", CDN.replace("https", "http")])
async def test_s1_08_there_is_no_way_down_from_https(hop: str) -> None:
    """Not even where http is allowed."""
    door, failure = await try_chain([CDN, hop], LAX, Names(PUBLIC))
    assert isinstance(failure, AddressRefused)
    assert not door.reached


async def test_s1_08_every_hop_is_resolved_and_judged_anew() -> None:
    """The first host is public, the second only looks so."""
    told = {"cdn.provider-files.com": ["93.184.215.14"], "edge.provider-files.com": ["10.0.0.1"]}
    door, failure = await try_chain([CDN, "https://edge.provider-files.com/"], STRICT, Names(told))
    assert isinstance(failure, AddressRefused)
    assert door.dialled == [("93.184.215.14", 443)]


async def _call_back(folder: Path, base_url: str) -> None:
    """Run a daemon that trusts callbacks, and send it a link to a film at `base_url`."""
    async with AsyncExitStack() as stack:
        daemon = await Stage(folder, stack).daemon(
            None, provider={"base_url": base_url}, callback={"trust": "callback"}
        )
        await daemon.post(success("a", f"{base_url}/files/a.mp4"))
        await daemon.says("download.failed", task_id="a")
        await daemon.run("track", "b")
        await daemon.says("poll.asked", task_id="b")


async def test_s1_09_a_film_on_the_apis_own_host_is_fetched_without_the_key(tmp_path: Path) -> None:
    """One host, API and files: the question has the key, the film's request does not."""
    asked: dict[str, list[web.Request]] = {"film": [], "api": []}

    async def play(request: web.Request) -> web.Response:
        which = "film" if request.path.startswith("/files/") else "api"
        asked[which].append(request)
        body = {"code": 200, "msg": "ok", "data": None}
        return web.json_response(body, headers={"Set-Cookie": "a=b"})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", play)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        base = f"http://127.0.0.1:{runner.addresses[0][1]}"
        await _call_back(tmp_path, base)
    finally:
        await runner.cleanup()
    assert asked["film"]
    assert asked["api"]
    assert all(call.headers["Authorization"] == f"Bearer {API_KEY}" for call in asked["api"])
    for request in asked["film"]:
        assert {name.lower() for name in request.headers} <= FEW
        assert API_KEY not in str(request.headers)
    assert not [call for calls in asked.values() for call in calls if "Cookie" in call.headers]


async def test_s1_09_the_key_stays_with_its_host() -> None:
    """Another host, another port, another scheme, and whatever the API redirects to."""
    api: list[bytes] = []
    other: list[bytes] = []
    async with host(answer(b"{}"), heard=other) as foreign:
        hop = answer(b"", f"Location: http://127.0.0.1:{foreign}/", status="302 Go")
        async with (
            host(answer(b"{}"), hop, heard=api) as port,
            api_session(f"http://127.0.0.1:{port}/v1", lambda: Secret("sk-1")) as session,
        ):
            assert await read_answer(await session.get("a")) == b"{}"
            for link in (f"http://127.0.0.1:{foreign}/", f"//127.0.0.1:{foreign}/"):
                with pytest.raises(AddressRefused):
                    await session.get(link)
            with pytest.raises(AddressRefused):
                await session.get(f"https://127.0.0.1:{port}/")
            with pytest.raises(Trouble, match="redirects to"):
                await session.get("b")
    assert len(api) == 2
    assert all(b"Authorization: Bearer sk-1\r\n" in request for request in api)
    assert not other


async def test_s1_09_no_cookie_comes_back_to_a_host_that_set_one() -> None:
    """Two films of one host, one session: the second request is like the first."""
    heard: list[bytes] = []
    async with (
        host(answer(b"film", "Set-Cookie: a=b; Path=/"), heard=heard) as port,
        open_files(lambda: LOOPBACK, 1, 1, 1) as session,
    ):
        for _ in range(2):
            async with get_file(session, f"http://127.0.0.1:{port}/", LOOPBACK, {}) as response:
                assert response.status == 200
    assert heard[0] == heard[1]
    assert "cookie" not in names_of(heard[1])
