"""S8-07: what strangers send does not make the metrics grow."""

import asyncio
import json
import random
import re
import string

from tests.security.wire import request, say
from tests.stories.harness import TOKEN, Daemon
from tests.stories.stage import Stage, failure, success

HOSTILE = 10_000
SENT = 15_000
"""Some connections are ended in their middle, for what stood in them."""
AT_ONCE = 20
TCP = {"listen": "127.0.0.1:0"}


async def series(daemon: Daemon) -> set[str]:
    """Return every series that is exposed, without its value."""
    answer = await daemon.call("/metrics", {})
    assert answer.status == 200
    lines = answer.body.decode().splitlines()
    return {line.rpartition(" ")[0] for line in lines if not line.startswith("#")}


def make_up(luck: random.Random) -> bytes:
    """Return a request with words of a stranger in every place that has some."""
    word = "".join(luck.choices(string.ascii_letters + "_:.-", k=12))
    body: object = luck.choice(
        [
            success(word, f"https://{word}.example/{word}.mp4"),
            failure(word, luck.randrange(1_000)),
            {"code": word, "msg": word, "data": {word: word}},
            [word],
        ]
    )
    path = luck.choice([f"/video-callback/{TOKEN}", f"/video-callback/{word}", f"/{word}"])
    method = luck.choice(["POST", "POST", "POST", "GET", "DELETE"])
    headers = (f"User-Agent: {word}", f"X-Forwarded-For: 203.0.113.{luck.randrange(256)}")
    return request(f"{method} {path}", *headers, body=json.dumps(body).encode())


async def test_s8_07_ten_thousand_hostile_callbacks_add_no_series(stage: Stage) -> None:
    """Ids, hosts, codes, paths, methods and agents of strangers become no label."""
    daemon = await stage.daemon(None, admin=TCP, callback={"trust": "confirm"})
    # What a first real callback of each kind counts is there before.
    for body in (success("t-1", "https://files.example/v.mp4"), failure("t-2"), [1]):
        await daemon.post(body)
    await daemon.says("gate.closed", gate="api")
    before = await series(daemon)
    luck = random.Random(8)
    batches = [[make_up(luck) for _ in range(SENT // AT_ONCE // 5)] for _ in range(AT_ONCE * 5)]

    async def send(batch: list[bytes]) -> int:
        heard = await say(daemon.callback, b"".join(batch), patience=60, end=True)
        return len(heard.statuses)

    answered = 0
    for first in range(0, len(batches), AT_ONCE):
        answered += sum(await asyncio.gather(*map(send, batches[first : first + AT_ONCE])))
    assert answered >= HOSTILE
    grown = {re.sub(r"\{.*", "", one) for one in await series(daemon) - before}
    assert not grown
