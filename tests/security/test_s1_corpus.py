"""S1-06: every case of the table through a real session; the verdict is read at the socket."""

import ast
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import aiohttp
import pytest
from yarl import URL

from daemon import outbound
from daemon.outbound import file_session
from daemon.rules.address import AddressRefused, check_link
from daemon.rules.failure import Refused, Trouble
from tests.security.door import CASES, LAX, Case, Door, Names, is_outside, trusting, try_chain

MOST_REDIRECTS = 5


def by_name(case: Case) -> str:
    """Name a case in the report."""
    return case.name


@pytest.mark.parametrize("case", CASES, ids=by_name)
async def test_s1_06_every_case_gets_its_verdict_at_the_socket(case: Case) -> None:
    """Allowed means that the last socket was asked for, denied that it was not."""
    names = Names(case.names)
    door, failure = await try_chain(case.chain, case.policy, names)
    assert door.reached is case.allowed, failure
    if case.allowed:
        assert type(failure) is not AddressRefused
        assert isinstance(failure, Trouble)
    elif len(case.chain) == 1:
        assert not door.dialled
        assert bool(names.asked) is (case.layer == "resolve")
    else:
        assert len(door.served) <= MOST_REDIRECTS + 1
    if not case.allowed and not _unanswered(case):
        assert isinstance(failure, Refused)


def _unanswered(case: Case) -> bool:
    """Tell whether a name has no address: that is trouble, and no refusal."""
    return not (case.names.get("*") or case.layer == "url") and all(
        not answers or set(answers) <= {"93.184.215.14"} for answers in case.names.values()
    )


@pytest.mark.parametrize("case", [case for case in CASES if case.layer == "url"], ids=by_name)
def test_s1_04_the_text_alone_refuses(case: Case) -> None:
    """What is wrong with the text of a link is found without a name being asked."""
    with pytest.raises(AddressRefused):
        check_link(case.chain[0], case.policy)


ODD = (ValueError, LookupError, AssertionError, OSError, RuntimeError)
"""What aiohttp and yarl say to links that the check of the text keeps from them."""


@pytest.mark.parametrize("case", CASES, ids=by_name)
async def test_s1_06_the_socket_factory_alone_keeps_everything_inside_closed(case: Case) -> None:
    """Without the check of the text and with a blind resolver, no inner address is dialled."""
    door, names = Door(1, {}), Names(case.names)
    async with file_session(
        lambda: LAX, 5, 5, 4, tls=trusting(), resolver=names, open_socket=door.open_socket
    ) as session:
        assert isinstance(session.connector, aiohttp.TCPConnector)
        session.connector._resolver = names
        for link in case.chain:
            for encoded in (False, True):
                with suppress(*ODD, aiohttp.ClientError):
                    response = await session.get(URL(link, encoded=encoded))
                    response.close()
    assert not [address for address, _ in door.dialled if not is_outside(address)]


async def test_s1_06_a_name_that_is_rebound_between_check_and_dial_is_refused() -> None:
    """Public for the check, 127.0.0.1 for whoever asks again: nobody asks again."""
    names = Names({"a.com": ["93.184.215.14"]})
    door = Door(1, {})
    async with file_session(
        lambda: LAX, 5, 5, 4, resolver=names, open_socket=door.open_socket
    ) as session:
        for answers in (["93.184.215.14"], ["127.0.0.1"], ["93.184.215.14", "::1"]):
            names.answers["a.com"] = answers
            assert isinstance(session.connector, aiohttp.TCPConnector)
            session.connector.clear_dns_cache()
            with pytest.raises((Trouble, AddressRefused)) as caught:
                async with outbound.get_file(session, "https://a.com/", LAX, {}):
                    pass
            assert isinstance(caught.value, AddressRefused) is (answers != ["93.184.215.14"])
    assert names.asked == ["a.com"] * 3
    assert door.dialled == [("93.184.215.14", 443)]


def test_s1_06_answers_are_remembered_for_seconds_only() -> None:
    """Rebinding is closed by the factory; a short memory keeps the two checks together."""
    assert outbound._DNS_CACHE_SECONDS <= 10


def calls() -> Iterator[tuple[str, str]]:
    """Yield (file, what is called) of everything that the program calls."""
    folder = Path(outbound.__file__).parent
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield path.relative_to(folder).as_posix(), ast.unparse(node.func)


WAYS_OUT = {
    *("ClientSession", "Session", "TCPConnector", "ws_connect", "open_connection"),
    *("create_connection", "create_datagram_endpoint", "sock_connect", "urlopen", "getaddrinfo"),
}


def test_s1_06_there_is_one_door_out() -> None:
    """Sessions, and anything else that dials for the daemon, are made in one module.

    The command line looks at the owner's own address from outside, and asks the resolver for what
    he configured.
    """
    doors = {
        file
        for file, called in calls()
        if called.rpartition(".")[2] in WAYS_OUT or called == "aiohttp.request"
    }
    assert doors == {"outbound.py", "cli/doctor/wire.py", "installation.py"}
