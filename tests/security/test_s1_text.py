"""S1-04 and S1-05: the text of a link before any parser sees it, and what counts as a link."""

import json

import pytest
from yarl import URL

from daemon import outbound
from daemon.rules.address import AddressRefused, Link, check_link
from daemon.rules.notice import Evidence, read_answer, read_callback
from tests.security.door import LAX, STRICT, Names, try_chain

CDN = "https://cdn.provider-files.com"
FORBIDDEN = [*range(0x21), *range(0x7F, 0xA1), 0x2028, 0x2029, 0xFEFF, 0xD800, 0xDFFF, 0x5C]
PLACES = [
    *("{}" + f"{CDN}/v", "ht{}tps://a.com/", "https:{}//a.com/", "https://{}a.com/"),
    *("https://a{}.com/", "https://a.com{}/", "https://a.com:{}443/", CDN + "/{}", CDN + "/?{}"),
    *(CDN + "/#{}", CDN + "/v{}"),
]
LOCAL = [
    *("localhost", "local", "localdomain", "internal", "intranet", "private", "corp", "home"),
    *("lan", "arpa", "test", "invalid", "example", "onion", "alt"),
]


@pytest.mark.parametrize("place", PLACES)
def test_s1_04_no_forbidden_character_stands_anywhere(place: str) -> None:
    """Parsers strip or map some of them, each parser others."""
    for code in FORBIDDEN:
        for policy in (STRICT, LAX):
            with pytest.raises(AddressRefused):
                check_link(place.format(chr(code)), policy)


def test_s1_04_the_length_of_a_link_has_an_end() -> None:
    """1 to 2048 characters."""
    longest = f"{CDN}/".ljust(2048, "a")
    assert check_link(longest, STRICT).text == longest
    for link in ("", longest + "a", longest + "?" * 10_000_000):
        with pytest.raises(AddressRefused):
            check_link(link, STRICT)


@pytest.mark.parametrize("last", LOCAL)
def test_s1_04_local_suffixes_are_no_public_names(last: str) -> None:
    """In any case and below any label, but only as the last one."""
    for host in (last, f"a.{last}", f"a.b.{last.upper()}", f"a.{last}."):
        with pytest.raises(AddressRefused):
            check_link(f"http://{host}/", LAX)
    for host in (f"{last}.com", f"a.{last}.com", f"a.x{last}"):
        assert check_link(f"http://{host}/", LAX).host == host


@pytest.mark.parametrize(
    "label", ["0", "1", "09", "127", "0x", "0x7f", "0X7F", "0xg", "4294967296"]
)
def test_s1_04_a_host_that_ends_in_a_number_is_refused(label: str) -> None:
    """Resolvers read such hosts as addresses, each resolver others."""
    for host in (label, f"a.{label}", f"1.2.3.4.{label}", f"a.{label}."):
        with pytest.raises(AddressRefused):
            check_link(f"http://{host}/x", LAX)


def test_s1_04_only_ascii_stands_in_front_of_the_path() -> None:
    """One by one: every character of the first plane beyond ASCII, in the middle of a host."""
    for code in range(0x80, 0x10000):
        with pytest.raises(AddressRefused):
            check_link(f"https://cdn{chr(code)}x.com/", STRICT)


@pytest.mark.parametrize(
    "text",
    [
        *("https://evil.com/", "https://good.com:444/", "https://u@good.com/", "http://good.com/"),
        *("https://u:p@good.com/", "https://good.com:0/", "https://good.com:99999/", "good.com"),
        *("https:///good.com/", "https://good.com.evil.com/", "https://[::1]/", "https://[v1.a]/"),
    ],
)
def test_s1_04_where_two_readers_disagree_nothing_is_sent(text: str) -> None:
    """Had the check of the text a hole, the second reader would show it."""
    with pytest.raises(AddressRefused, match="disagree"):
        outbound._url(Link(text, "https", "good.com", 443))
    assert outbound._url(Link("https://good.com/", "https", "good.com", 443)).host == "good.com"


def test_s1_04_the_second_reader_is_needed() -> None:
    """The parser behind us maps and strips: this is what it makes of texts that are refused."""
    seen = {
        "https://good.com\t.evil.com/": "good.com.evil.com",
        "http://\u2460\u2461\u2466.\u24ea.\u24ea.\u2460/": "127.0.0.1",
    }
    for text, host in seen.items():
        assert URL(text).host == host
        with pytest.raises(AddressRefused):
            check_link(text, LAX)


SHAPES = [
    *(None, "", " ", [], {}, 0, 1, 1.5, True, False),
    *([f"{CDN}/v.mp4"], {"url": f"{CDN}/v.mp4"}, [[f"{CDN}/v.mp4"]], {f"{CDN}/v.mp4": 1}),
]


@pytest.mark.parametrize("shape", SHAPES, ids=json.dumps)
@pytest.mark.parametrize("field", ["video_url", "videoUrl"])
def test_s1_05_only_a_text_is_a_link(shape: object, field: str) -> None:
    """Anything else is no link, in callbacks and answers alike; nothing is taken out of it."""
    data = {"task_id": "a", field: shape}
    notice = read_callback(json.dumps({"code": 200, "msg": "ok", "data": data}).encode())
    assert (notice.link, notice.evidence) == (None, Evidence.NONE)
    told = {"taskId": "a", "successFlag": "SUCCESS", "response": {field: shape}}
    answer = read_answer("sunoapi", 200, json.dumps({"code": 200, "data": told}).encode(), "a")
    assert answer.notice is not None
    assert answer.notice.link is None
    assert answer.notice.evidence is Evidence.PENDING


def test_s1_05_a_text_is_one() -> None:
    """The same body with a text has the link."""
    data = {"task_id": "a", "video_url": f"{CDN}/v.mp4"}
    notice = read_callback(json.dumps({"code": 200, "msg": "ok", "data": data}).encode())
    assert (notice.link, notice.evidence) == (f"{CDN}/v.mp4", Evidence.SUCCESS)


@pytest.mark.parametrize(
    "link", ["file:///etc/passwd", "data:video/mp4,", "ws://a.com/", "//a.com"]
)
async def test_s1_05_a_text_that_is_no_web_link_is_none_either(link: str) -> None:
    """Neither the reader of callbacks takes it, nor the guard behind it."""
    data = {"task_id": "a", "video_url": link}
    notice = read_callback(json.dumps({"code": 200, "msg": "ok", "data": data}).encode())
    assert notice.link is None
    door, failure = await try_chain([link], LAX, Names({"*": ["93.184.215.14"]}))
    assert isinstance(failure, AddressRefused)
    assert not door.dialled
