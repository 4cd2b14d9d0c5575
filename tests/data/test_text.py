"""Text as sequences labelled with the next token."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isometry.data import from_text, load


@given(st.integers(2, 9), st.integers(60, 200))
def test_each_position_is_labelled_with_what_follows(length, characters):
    text = "".join(chr(97 + (i * i) % 11) for i in range(characters))
    data = from_text(text, name="squares", length=length)
    ids = torch.cat([data.inputs, data.test_inputs]).flatten()
    following = torch.cat([data.targets, data.test_targets]).flatten()
    alphabet = sorted(set(text))
    assert "".join(alphabet[i] for i in ids) == text[: len(ids)]
    assert "".join(alphabet[i] for i in following) == text[1 : len(ids) + 1]


def test_shipped_plays():
    data = load("shakespeare:length=32")
    assert (data.shape, data.classes) == ((32,), 62)
    assert len(data) > 8000
    assert "public domain" in data.licence


def test_a_file_and_a_tokenizer(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("one two three\n" * 30_000, encoding="utf-8")  # more than one piece
    data = load(str(path), tokenizer=lambda text: [len(word) for word in text.split()], vocabulary=9, length=16)
    assert data.classes == 9
    assert data.inputs[0, :6].tolist() == [3, 3, 5, 3, 3, 5]
    assert sum(map(len, (data.inputs, data.test_inputs))) == (90_000 - 1) // 16


@pytest.mark.parametrize(
    ("reference", "content", "message"),
    [
        ("book.txt", b"short", "has 5 tokens, too few for sequences of 64"),
        ("book.txt", b"\xff\xfe", "no UTF-8 text"),
        ("book.txt:classes=3", b"short", "is a text and takes no options classes="),
        ("book.txt:length=0", b"short", "length='0' must be a positive whole number"),
        ("book.txt:length=1", b"short", "at least 2 tokens, got 1"),
        ("digits:length=3", b"", "length= is for texts only"),
        ("shakespeare:hamlet", b"", "'shakespeare' ships with the package and takes no file"),
    ],
)
def test_refusals(tmp_path, monkeypatch, reference, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load(reference)
