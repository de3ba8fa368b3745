"""A target is known by what is harmless in its URL."""

import pytest

from daemon.rules.target import PREFIX, is_web, key_of, name_of, tokens_of


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://hooks.example.com/services/T00/secret?x=1", "https://hooks.example.com"),
        ("HTTP://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("https://user:secret@hooks.example.com:444/x", "https://hooks.example.com:444"),
        ("https://h.example?token=secret@x", "https://h.example"),
        ("ntfys://secret@ntfy.example.com/secret", "ntfys"),
        ("discord://secret/secret", "discord"),
    ],
)
def test_a_name_shows_no_token(url: str, name: str) -> None:
    """For http(s) scheme and host, which Apprise uses for tokens too; for all others the scheme."""
    assert name_of(url) == name
    assert "secret" not in name


def test_a_key_is_a_digest_of_its_own() -> None:
    """The same URL has the same key, another one another, and no application has such a URL."""
    first, second = key_of("https://a.example/1"), key_of("https://a.example/2")
    assert first == key_of("https://a.example/1") != second
    assert first.startswith(PREFIX)
    assert "a.example" not in first
    assert (is_web("HTTPS://a"), is_web(PREFIX), is_web("ntfy://a")) == (True, False, False)


@pytest.mark.parametrize(
    ("url", "hidden"),
    [
        ("https://h.example/videos/a1b2c3d4", {"a1b2c3d4"}),
        ("https://h.example/a-topic-that-is-long", {"a-topic-that-is-long"}),
        ("https://me:pass@h.example/x", {"pass"}),
        ("https://h.example/x?token=hush&method=POST&a=1#top", {"hush"}),
        ("https://very-long-host-1234.example/", set()),
        ("discord://123456789012/abcdefgh1", {"123456789012", "abcdefgh1"}),
        ("tgram://123456789:aaBB_ccDD1/chat", {"123456789", "aaBB_ccDD1"}),
        ("ntfys://ntfy1.example.com/videos", set()),
        ("ntfy://127.0.0.1:18999/videos", set()),
        ("json://[fd00::1]:8080/videos", set()),
        ("mailtos://me:p%40ss@mail.example.com", {"p%40ss", "p@ss"}),
    ],
)
def test_tokens_are_found_wherever_they_stand(url: str, hidden: set[str]) -> None:
    """Passwords and values of a query, and every part that looks like one; no plain word."""
    assert set(tokens_of(url)) == hidden
