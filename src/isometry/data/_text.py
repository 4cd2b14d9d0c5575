"""Text as sequences of tokens, each labelled with the token that follows: what language models learn from."""

from __future__ import annotations

import importlib.resources
import lzma
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from isometry._base import progress
from isometry.data._dataset import Dataset

__all__ = ["Tokenizer", "from_text", "load_text", "shakespeare"]

Tokenizer = Callable[[str], Sequence[int]]
LENGTH = 64  # tokens of a sequence by default
_HELD_OUT = 0.1  # share of the text, from its end, that is the test set
_PIECE = 100_000  # characters given to a tokenizer at a time


def from_text(
    text: str,
    *,
    name: str,
    length: int = LENGTH,
    tokenizer: Tokenizer | None = None,
    vocabulary: int | None = None,
    source: str = "",
    licence: str = "",
) -> Dataset:
    """Cut a text into sequences, one behind the other, the last tenth of them for test.

    Args:
        text: The text.
        name: Name of the data set.
        length: Tokens of a sequence.
        tokenizer: Turns text into token numbers. Default: each distinct character is a token, in the order of their
            code points.
        vocabulary: How many tokens there are; default: one more than the largest that occurs.
        source: Where the text comes from.
        licence: Its licence.

    Returns:
        Inputs (N, length) and targets (N, length), both int64: the target of a position is the next token.

    Raises:
        ValueError: If the text has fewer than two sequences' tokens, or a token is not in the vocabulary.

    Example:
        >>> data = from_text("abracadabra" * 9, name="spell", length=8)
        >>> data.inputs[0].tolist(), data.targets[0].tolist()
        ([0, 1, 4, 0, 2, 0, 3, 0], [1, 4, 0, 2, 0, 3, 0, 1])
    """
    if isinstance(length, bool) or not isinstance(length, int) or length < 2:
        raise ValueError(f"length must be a whole number of at least 2 tokens, got {length!r}.")
    if tokenizer is None:
        characters = sorted(set(text))
        number = {c: i for i, c in enumerate(characters)}
        ids = torch.tensor([number[c] for c in text], dtype=torch.int64)
        note = f"{len(characters)} distinct characters are the tokens"
    else:
        ids = torch.tensor(_tokenized(text, tokenizer), dtype=torch.int64)
        note = f"{len(text)} characters became {len(ids)} tokens"
    count = (len(ids) - 1) // length
    if count < 4:
        raise ValueError(
            f"{name}: the text has {len(ids)} tokens, too few for sequences of {length}; pass a longer text or a "
            "smaller length."
        )
    inputs = ids[: count * length].view(count, length)
    targets = ids[1 : count * length + 1].view(count, length)
    held = max(1, round(count * _HELD_OUT))
    return Dataset(
        name,
        inputs[:-held],
        targets[:-held],
        vocabulary if vocabulary is not None else int(ids.max()) + 1,
        inputs[-held:],
        targets[-held:],
        (f"{count} sequences of {length} tokens, each labelled with the next; {note}",),
        source,
        licence,
    )


def _tokenized(text: str, tokenizer: Tokenizer) -> list[int]:
    """Tokenize piece by piece, between lines: some tokenizers take quadratic time, or refuse long texts.

    Returns:
        Token numbers.
    """
    found: list[int] = []
    start = 0
    while start < len(text):
        end = min(start + _PIECE, len(text))
        if end < len(text):
            end = text.rfind("\n", start + 1, end) + 1 or end
        found.extend(int(token) for token in tokenizer(text[start:end]))
        start = end
        progress("Tokens", start, len(text))
    return found


def load_text(
    path: str | Path, *, length: int = LENGTH, tokenizer: Tokenizer | None = None, vocabulary: int | None = None
) -> Dataset:
    """Read a text file, UTF-8.

    Args:
        path: The file.
        length: Tokens of a sequence.
        tokenizer: As for ``from_text``.
        vocabulary: As for ``from_text``.

    Returns:
        The data set.

    Raises:
        ValueError: If the file is no UTF-8 text.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"DATA {str(path)!r} is no UTF-8 text ({error.reason}); convert it first.") from error
    return from_text(text, name=path.name, length=length, tokenizer=tokenizer, vocabulary=vocabulary, source=str(path))


def shakespeare(*, length: int = LENGTH, tokenizer: Tokenizer | None = None, vocabulary: int | None = None) -> Dataset:
    """Load the plays that ship with the package.

    Args:
        length: Tokens of a sequence.
        tokenizer: As for ``from_text``.
        vocabulary: As for ``from_text``.

    Returns:
        Sequences of 64 characters, each labelled with the next; 62 distinct characters.

    Example:
        >>> shakespeare().shape
        (64,)
    """
    packed = importlib.resources.files("isometry.data").joinpath("shakespeare.txt.xz").read_bytes()
    return from_text(
        lzma.decompress(packed).decode("utf-8"),
        name="shakespeare",
        length=length,
        tokenizer=tokenizer,
        vocabulary=vocabulary,
        source="tiny Shakespeare (karpathy/char-rnn), the first 300,000 characters",
        licence="MIT; the plays are in the public domain",
    )
