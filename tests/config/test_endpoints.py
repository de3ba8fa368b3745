"""Addresses, hosts and URLs are taken only when they are complete, and always in one spelling."""

from ipaddress import ip_network
from pathlib import Path

import pytest

from daemon.config.endpoints import (
    Endpoint,
    TcpEndpoint,
    UnixEndpoint,
    format_endpoint,
    format_network,
    is_loopback,
    parse_base_url,
    parse_endpoint,
    parse_host,
    parse_host_pattern,
    parse_network,
    parse_path,
    parse_public_url,
    parse_tcp_endpoint,
    parse_url_path,
)

ENDPOINTS = [
    ("", None),
    ("127.0.0.1:8080", TcpEndpoint("127.0.0.1", 8080)),
    ("localhost:0", TcpEndpoint("localhost", 0)),
    ("[::1]:65535", TcpEndpoint("::1", 65_535)),
    ("unix:/run/x.sock", UnixEndpoint(Path("/run/x.sock"))),
    ("unix:x.sock", UnixEndpoint(Path("x.sock"))),
]


@pytest.mark.parametrize(("text", "endpoint"), ENDPOINTS)
def test_endpoint_is_read_and_printed(text: str, endpoint: Endpoint | None) -> None:
    """Each of the three spellings means one endpoint and is printed like that again."""
    assert parse_endpoint(text) == endpoint
    assert format_endpoint(endpoint) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("8080", "expected an address such as"),
        ("127.0.0.1", "expected an address such as"),
        ("127.0.0.1:", "expected an address such as"),
        ("127.0.0.1:http", "expected an address such as"),
        ("127.0.0.1:٨", "expected an address such as"),
        ("127.0.0.1:65536", "expected a port from 0 to 65535, not 65536"),
        (":8080", 'such as "0.0.0.0"'),
        ("::1:8080", "in brackets"),
        ("*:8080", "expected a host alone"),
        ("http://x:80", "in brackets"),
        ("unix:", "not empty"),
        ("unix:/a\0b", "not empty"),
    ],
)
def test_what_is_no_endpoint_is_refused(text: str, words: str) -> None:
    """Half an address and an ambiguous one are refused, with what is missing."""
    with pytest.raises(ValueError, match=words):
        parse_endpoint(text)


def test_a_socket_is_no_tcp_endpoint() -> None:
    """Where only TCP makes sense, a unix socket is refused."""
    with pytest.raises(ValueError, match="expected an address such as"):
        parse_tcp_endpoint("unix:/run/x.sock")


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("CDN.Example.com.", "cdn.example.com"),
        ("_dmarc.example.com", "_dmarc.example.com"),
        ("localhost", "localhost"),
        ("127.0.0.1", "127.0.0.1"),
        ("::0001", "::1"),
        ("x" * 63, "x" * 63),
    ],
)
def test_host_is_read_in_one_spelling(text: str, host: str) -> None:
    """Case, a final dot and the long form of an address make no difference."""
    assert parse_host(text) == host


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "a..b",
        "-a.example",
        "a-.example",
        "a b",
        "a/b",
        "a:80",
        "[::1]",
        "*.example.com",
        "300.1.1.1",
        "müller.example",
        "x" * 64,
        ".".join(["x" * 60] * 5),
    ],
)
def test_what_is_no_host_is_refused(text: str) -> None:
    """A port, a path, a pattern and a mistyped address are no host."""
    with pytest.raises(ValueError, match="expected a host alone"):
        parse_host(text)


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("*.Example.com", "*.example.com"),
        ("cdn.example.com", "cdn.example.com"),
        ("10.0.0.1", "10.0.0.1"),
    ],
)
def test_host_pattern_is_read(text: str, pattern: str) -> None:
    """A star stands for whole labels at the front, and only there."""
    assert parse_host_pattern(text) == pattern


@pytest.mark.parametrize(
    "text", ["", "*", "*.", "**.a.b", "a.*.b", "cdn*.example.com", "*.10.0.0.1", "https://a.b"]
)
def test_what_is_no_host_pattern_is_refused(text: str) -> None:
    """A star elsewhere, before an address or alone would match what nobody meant."""
    with pytest.raises(ValueError, match=r'expected a host such as "example.com" or "\*.example'):
        parse_host_pattern(text)


@pytest.mark.parametrize("text", ["10.0.0.0/8", "127.0.0.1", "::1", "fd00::/8", "0.0.0.0/0"])
def test_network_is_read_and_printed(text: str) -> None:
    """A network and a single address come back as they were written."""
    network = parse_network(text)
    assert network == ip_network(text)
    assert format_network(network) == text


def test_address_inside_a_network_gets_the_network() -> None:
    """An address with a prefix could mean two things; the message shows the one."""
    with pytest.raises(ValueError, match=r'the network "192\.168\.1\.0/24"'):
        parse_network("192.168.1.5/24")


@pytest.mark.parametrize("text", ["", "localhost", "10.0.0.0/33", "10.0.0", "1.2.3.4:5"])
def test_what_is_no_network_is_refused(text: str) -> None:
    """A host name is no network, for it could move."""
    with pytest.raises(ValueError, match="expected a network such as"):
        parse_network(text)


@pytest.mark.parametrize("text", ["/video-callback", "/a/b.c/~d_e"])
def test_url_path_is_read(text: str) -> None:
    """A path of plain segments is taken as it is."""
    assert parse_url_path(text) == text


@pytest.mark.parametrize(
    "text",
    ["", "/", "x", "x/y", "/x/", "//x", "/x//y", "/./x", "/x/..", "/a b", "/a?b", "/{a}", "/%2e"],
)
def test_what_is_no_plain_path_is_refused(text: str) -> None:
    """Empty segments, dot segments and anything a router or proxy rewrites are refused."""
    with pytest.raises(ValueError, match='expected a path such as "/video-callback"'):
        parse_url_path(text)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://mv.example.com/video-callback", "https://mv.example.com/video-callback"),
        ("https://mv.example.com/", "https://mv.example.com"),
        ("HTTPS://MV.Example.com/X", "https://mv.example.com/X"),
        ("http://198.51.100.7:8080/x/", "http://198.51.100.7:8080/x"),
        ("https://[2001:db8::1]/x", "https://[2001:db8::1]/x"),
    ],
)
def test_public_url_is_read_in_one_spelling(text: str, url: str) -> None:
    """Scheme and host are in lower case, and the token goes behind it with one slash between."""
    assert parse_public_url(text) == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "mv.example.com",
        "//mv.example.com/x",
        "ftp://mv.example.com",
        "https:///x",
        "https://mv.example.com:99999/x",
        "https://mv.example.com:0/x",
        "https://mv.example.com:x/",
        "https://[::1",
        "https://a_b c/x",
        "https://mv.exam\tple.com",
        "https://müller.example/x",
        "https://user:pw@mv.example.com/x",
        "https://mv.example.com/x?y=1",
        "https://mv.example.com/x?",
        "https://mv.example.com/x#y",
    ],
)
def test_what_is_no_public_url_is_refused_without_being_repeated(text: str) -> None:
    """A relative URL, one with user, query or fragment is refused; a password stays unsaid."""
    with pytest.raises(ValueError, match='expected a URL such as "https://mv') as refused:
        parse_public_url(text)
    assert "pw" not in str(refused.value)


@pytest.mark.parametrize(
    "text", ["https://api.example.com", "http://127.0.0.1:9", "http://[::1]:9", "http://localhost"]
)
def test_base_url_is_https_or_this_machine(text: str) -> None:
    """Only towards ourselves may the API key travel in the clear."""
    assert parse_base_url(f"{text}/") == text


@pytest.mark.parametrize("text", ["http://api.example.com", "http://10.0.0.1", "http://0.0.0.0:9"])
def test_base_url_in_the_clear_is_refused(text: str) -> None:
    """The API key never crosses a network unencrypted."""
    with pytest.raises(ValueError, match="expected https"):
        parse_base_url(text)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("a.localhost", True),
        ("0.0.0.0", False),  # noqa: S104
        ("::", False),
        ("notlocalhost", False),
        ("localhost.example.com", False),
    ],
)
def test_loopback_is_known_without_a_resolver(host: str, *, loopback: bool) -> None:
    """Only what can never leave the machine counts."""
    assert is_loopback(host) is loopback


def test_path_is_not_empty() -> None:
    """An empty path would mean the folder of the configuration file."""
    with pytest.raises(ValueError, match="expected a path that is not empty"):
        parse_path("")
