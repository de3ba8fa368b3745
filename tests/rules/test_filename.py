"""No text from outside leaves the download folder, or collides by accident."""

import hashlib
import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.rules.filename import (
    FIELD_LIMIT,
    filter_field,
    name_beside,
    name_partial,
    name_video,
)

ID = "e7a6b9f3d91c93282a5bb2e610520e7f"
SHA256 = "0123456789abcdef" * 4
TEMPLATE = "video_{task_id}.mp4"

clean = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
texts = st.text(st.characters(), max_size=200)
EVIL = [
    "",
    ".",
    "..",
    "../../etc/passwd",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "a\x00b",
    "a\nb",
    "\u202egpm.4pm",
    "a\u200bb",
    "~root",
    "$(reboot)",
    "`reboot`",
    "a b",
    "{path}",
    "%2e%2e%2f",
    ":x",
    "\uff56\uff49\uff44",
    "音乐",
    "\ud800",
    "x" * 65,
    "x" * 5000,
    "é" * 64,
]


@given(clean)
def test_plain_text_passes(text: str) -> None:
    """What holds nothing odd enters a name as it is, at any length up to 64."""
    assert filter_field(text) == text


@pytest.mark.parametrize("text", EVIL)
def test_odd_text_is_spelled_out(text: str) -> None:
    """Foreign characters become `_`, and 12 digits of the original's SHA-256 follow."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    stem, _, suffix = filter_field(text).rpartition("-")
    assert suffix == digest[:12]
    assert stem == "".join(
        letter if re.fullmatch("[A-Za-z0-9_-]", letter) else "_" for letter in text[:51]
    )


@given(texts)
def test_every_field_is_harmless(text: str) -> None:
    """Whatever it was, it has 1 to 64 letters, digits, `_` and `-`."""
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,64}", filter_field(text))
    assert FIELD_LIMIT == 64


@given(texts, texts)
def test_different_texts_get_different_names(one: str, other: str) -> None:
    """Two ids share a file only when somebody built one from the digest of the other."""
    if one != other:
        assert filter_field(one) != filter_field(other)
        assert name_partial(one) != name_partial(other)


@pytest.mark.parametrize(
    ("one", "other"), [("a.b", "a:b"), ("a/b", "a_b"), ("x" * 65, "x" * 66), ("", " ")]
)
def test_filtering_makes_no_twins(one: str, other: str) -> None:
    """What differs only in filtered characters, or beyond the limit, stays apart."""
    assert filter_field(one) != filter_field(other)


@pytest.mark.parametrize("text", EVIL)
def test_names_stay_in_the_folder(text: str, tmp_path: Path) -> None:
    """A file of that name can be made, and lies in the folder itself."""
    names = [
        name_video(TEMPLATE, task_id=text, label=None, date="2026-11-22"),
        name_video("{label}{task_id}.mp4", task_id=ID, label=text, date="2026-11-22"),
        name_partial(text),
    ]
    for name in names:
        (tmp_path / name).touch()
        assert os.fsencode(name).isascii()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(set(names))
    assert not any(name.startswith(".") for name in names)


@pytest.mark.parametrize(
    "other", ["A.B", "a:b", f"a_b-{hashlib.sha256(b'a.b').hexdigest()[:12]}", "a_b"]
)
def test_partial_files_are_never_shared(other: str) -> None:
    """Two tasks write into two files, also where one id was made from the other, or case folds."""
    assert name_partial("a.b").lower() != name_partial(other).lower()


def test_templates() -> None:
    """All three fields are filled in, and a missing label leaves nothing behind."""
    template = "{date}_{label}_{task_id}.mp4"
    named = name_video(template, task_id=ID, label="Demo", date="2026-11-22")
    assert named == f"2026-11-22_Demo_{ID}.mp4"
    for label in (None, ""):
        bare = name_video(template, task_id=ID, label=label, date="2026-11-22")
        assert bare == f"2026-11-22__{ID}.mp4"


def test_fields_are_not_filled_twice() -> None:
    """A label that looks like a field is only text."""
    named = name_video("{label}_{task_id}.mp4", task_id=ID, label="{date}", date="2026-11-22")
    assert "2026-11-22" not in named
    assert "{" not in named


@given(texts, texts)
def test_the_longest_name_fits(task_id: str, label: str) -> None:
    """Three fields, and the mark for a name that is taken, stay below the 255 bytes of a name."""
    named = name_video(
        "{task_id}_{label}_{date}.mp4", task_id=task_id, label=label, date="2026-11-22"
    )
    assert len(os.fsencode(name_beside(named, SHA256))) <= 255
    assert len(os.fsencode(name_partial(task_id))) <= 255


@pytest.mark.parametrize(
    ("name", "beside"),
    [
        ("video_1.mp4", "video_1-01234567.mp4"),
        ("a.mp4.mp4", "a.mp4-01234567.mp4"),
        ("odd", "odd-01234567.mp4"),
    ],
)
def test_a_taken_name(name: str, beside: str) -> None:
    """Other content under the name: eight digits of the SHA-256 go before `.mp4`."""
    assert name_beside(name, SHA256) == beside
