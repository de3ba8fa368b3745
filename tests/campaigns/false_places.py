"""Lies of the place: redirects that lead nowhere or where nobody may go, and bad certificates.

Rule: each is one line of a table, with how an attempt that meets it has to end.

Source: RFC 9110 section 15.4 (redirects).
"""

from collections.abc import Callable, Iterator
from typing import Final

from tests.campaigns.broken_wires import BOTH, FAILS, TAKEN, Ends, every, put
from tests.campaigns.false_answers import REFUSED
from tests.campaigns.liars import Answer, Lie, Scene, Scheme


def _places() -> Iterator[Lie]:
    nowhere: dict[str, str | None] = {
        "to itself": "{here}",
        "without a place": None,
        "to ftp": "ftp://127.0.0.1/film.mp4",
        "to a file": "file:///etc/passwd",
        "to a private address": "{scheme}://10.0.0.1/film.mp4",
        "to the cloud's own address": "{scheme}://169.254.169.254/latest",
        "to another address of this machine": "{scheme}://127.0.0.2/film.mp4",
        "to an address in another spelling": "{scheme}://2130706433/film.mp4",
        "to a place with a password": "{scheme}://a:b@127.0.0.1/film.mp4",
        "to nonsense": "http://[",
    }
    for name, place in nowhere.items():
        yield _redirect(f"a redirect {name}", _always(place), REFUSED)
    yield _redirect("redirects in a circle", lambda n: f"/{{key}}/{n % 2}", REFUSED)
    yield _redirect("six redirects", lambda n: f"/{{key}}/{n}", REFUSED)
    taken = (every(*TAKEN), every(*TAKEN))
    yield _redirect("five redirects", lambda n: f"/{{key}}/{n}", taken, requests=5)
    yield _redirect("a redirect to http", lambda _: "{http}/{key}/a", taken, ("http",), requests=1)
    yield _redirect(
        "a redirect to http from https", lambda _: "{http}/{key}/a", REFUSED, ("https",)
    )
    yield _redirect("a redirect to https", lambda _: "{https}/{key}/a", taken, requests=1)
    for name in ("expired", "unknown authority", "another name"):
        yield _redirect(
            f"a certificate: {name}",
            _always(f"{{{name}}}/{{key}}/a"),
            FAILS,
        )
    yield _redirect(
        "TLS where there is none", lambda _: "https://{http_place}/{key}/a", FAILS, hasty=True
    )
    yield _redirect(
        "no TLS where there is", lambda _: "http://{https_place}/{key}/a", FAILS, ("http",)
    )
    yield _redirect("a host that is not there", lambda _: "{scheme}://127.0.0.1:9/a", FAILS)
    yield _redirect("a name that is not there", lambda _: "{scheme}://gone.film.com/a", FAILS)


def _redirect(
    name: str,
    place: Callable[[int], str | None],
    how: tuple[Ends, Ends],
    schemes: tuple[Scheme, ...] = BOTH,
    *,
    requests: int = 99,
    hasty: bool = False,
) -> Lie:
    def bend(scene: Scene, answer: Answer) -> None:
        assert scene.host is not None
        doors = scene.host.doors
        asked = len(scene.asked)
        target = place(asked)
        answer.body = b""
        put("302 Found", Content_Range=None)(scene, answer)
        if target is not None:
            answer.headers["Location"] = target.format(
                here=f"{doors[scene.scheme]}{scene.path}",
                key=scene.key,
                scheme=scene.scheme,
                http_place=doors["http"].partition("//")[2],
                https_place=doors["https"].partition("//")[2],
                **doors,
            )

    return Lie(
        name=name,
        fresh=how[0],
        resumed=how[1],
        bend=bend,
        requests=requests,
        schemes=schemes,
        hasty=hasty,
    )


def _always(place: str | None) -> Callable[[int], str | None]:
    return lambda _: place


PLACE_LIES: Final = tuple(_places())
