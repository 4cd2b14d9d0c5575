"""Tables that name what was not understood."""

from __future__ import annotations

import pytest

from isometry._base import read_toml


@pytest.fixture
def read(tmp_path):
    def of(text):
        (tmp_path / "a.toml").write_text(text, encoding="utf-8")
        return read_toml(tmp_path / "a.toml")

    return of


def test_values_of_their_types(read):
    top = read('n = 3\nx = 2\nword = " hi "\nwords = ["a", "b"]\nkind = "red"\n[inner]\ny = 0.5\n[[many]]\n[[many]]\n')
    assert top.take("n", int) == 3
    assert top.take("x", float) == 2
    assert top.take("missing", int, 7) == 7
    assert (top.text("word"), top.words("words"), top.words("none", [])) == ("hi", ["a", "b"], [])
    assert top.choice("kind", ("red", "blue")) == "red"
    inner = top.table("inner")
    assert inner.take("y", float) == 0.5
    inner.done()
    assert [table.where for table in top.tables("many")] == ["a.toml, many 1", "a.toml, many 2"]
    top.done()


@pytest.mark.parametrize(
    ("text", "reading", "words"),
    [
        ("n = true", lambda t: t.take("n", int), "a.toml: n must be a whole number, got True."),
        ("n = 1.5", lambda t: t.take("n", int), "a.toml: n must be a whole number, got 1.5."),
        ("n = 1", lambda t: t.take("m", int), "unknown key in a.toml: 'n'; known names: m.|a.toml lacks the key 'm'"),
        ("size = 1", lambda t: t.take("sizes", int), "a.toml lacks the key 'sizes'|unknown key in a.toml: 'size'"),
        ("n = 1", lambda t: t.done(), "unknown key in a.toml: 'n'; there are none to choose from."),
        ("word = ' '", lambda t: t.text("word"), "a.toml: word is empty; write a sentence."),
        ("word = 3", lambda t: t.words("word"), "a.toml: word must be a string or a list of strings, got 3."),
        ("kind = 'rod'", lambda t: t.choice("kind", ("red",)), "unknown kind in a.toml 'rod'; did you mean 'red'?"),
        ("many = []", lambda t: t.tables("many"), r"many must be one or more tables, written \[\[...many\]\], got"),
    ],
)
def test_what_is_wrong_is_named(read, text, reading, words):
    with pytest.raises(ValueError, match=words):
        reading(read(text))


def test_no_toml(read):
    with pytest.raises(ValueError, match=r"a.toml is not TOML: "):
        read("a = = 1")
