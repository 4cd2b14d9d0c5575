"""References to data, resolved in one place: names, files, folders and users' functions."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.utils.data

from isometry._base import BadReferenceError, load_callable, short_traceback, unknown_name
from isometry.data._convert import as_dataset
from isometry.data._dataset import Dataset
from isometry.data._digits import digits
from isometry.data._fashion_mnist import fashion_mnist
from isometry.data._idx import is_idx_name, load_idx
from isometry.data._images import load_image_folder
from isometry.data._npz import load_npz
from isometry.data._text import Tokenizer, load_text, shakespeare

__all__ = ["NAMES", "is_text", "load"]

NAMES: dict[str, tuple[Callable[..., Dataset], str]] = {
    "digits": (digits, "1,437 + 360 handwritten digits, 8 x 8, shipped with the package"),
    "fashion-mnist": (fashion_mnist, "60,000 + 10,000 grey images, 28 x 28, from Debian's package or a folder"),
    "shakespeare": (shakespeare, "300,000 characters of plays as sequences of 64, shipped with the package"),
}
TEXTS = ("shakespeare",)
_OPTIONS = ("classes", "size", "length")


def load(
    reference: str,
    *,
    classes: int | None = None,
    size: int | tuple[int, int] | None = None,
    length: int | None = None,
    tokenizer: Tokenizer | None = None,
    vocabulary: int | None = None,
) -> Dataset:
    """Load the data that a reference names.

    Args:
        reference: One of

            * a name: ``digits``, ``fashion-mnist``, ``fashion-mnist:FOLDER``, ``shakespeare``;
            * a file: ``data.npz``, an IDX file of images (``train-images-idx3-ubyte.gz``), or a text (``book.txt``),
              which becomes sequences of tokens labelled with the next one;
            * a folder with one subfolder of images a class;
            * ``path/to/file.py:name`` or ``package.module:name``: a data set, a loader, or a function without arguments
              that returns one of these or ``(inputs, targets)``.

            Options come last, as in ``photos:size=32x32``, ``data.npz:classes=10`` or ``book.txt:length=128``.
        classes: Number of classes; by default one more than the largest label.
        size: Height and width for a folder of images; as the option ``size``.
        length: Tokens of a sequence, for texts; as the option ``length``.
        tokenizer: For texts: turns a string into token numbers; default: each character is a token.
        vocabulary: For texts: how many tokens there are; default: one more than the largest that occurs.

    Returns:
        The data set. Named sets are standardized; users' values are not rescaled.

    Raises:
        TypeError: If the reference is not a string.
        ValueError: If the reference names nothing, or the data are damaged, misshapen, out of range or not finite.

    Example:
        >>> len(load("digits"))
        1437
    """
    if not isinstance(reference, str):
        raise TypeError(
            f"reference must be a string, got {type(reference).__name__}; use as_dataset for data in memory."
        )
    if not reference.strip():
        raise ValueError(f"DATA is empty; known names: {', '.join(NAMES)}, or give a file.")
    target, options = _split(reference)
    if "classes" in options:
        classes = _positive("classes", options["classes"])
    if "size" in options:
        size = _size(options["size"])
    if "length" in options:
        length = _positive("length", options["length"])
    name, _, rest = target.partition(":")
    path = Path(target).expanduser()
    if is_text(reference):
        return _text(target, name, rest, classes, size, length=length, tokenizer=tokenizer, vocabulary=vocabulary)
    if length is not None:
        raise ValueError(f"DATA {target!r}: length= is for texts only; leave it out.")
    if name in NAMES:
        return _named(name, rest, classes, size)
    if size is not None and not path.is_dir():
        raise ValueError(f"DATA {target!r}: size= is for folders of images only; leave it out.")
    if path.is_dir():
        return load_image_folder(path, size=size, classes=classes)
    if path.is_file():
        return _file(path, classes)
    if rest:
        return _from_callable(target, classes)
    if path.suffix or "/" in target or "\\" in target:
        raise ValueError(f"DATA: there is no file or folder {target!r}; check the path (now in {Path.cwd()}).")
    error: ValueError = unknown_name("DATA", target, NAMES)
    raise error


def is_text(reference: str) -> bool:
    """Tell a reference to a text, which becomes tokens.

    Args:
        reference: A DATA reference.

    Returns:
        Whether it names a text that ships with the package, or a file that is one by its ending.
    """
    target, _ = _split(reference)
    path = Path(target).expanduser()
    return target.partition(":")[0] in TEXTS or (path.suffix in (".txt", ".md") and path.is_file())


def _named(name: str, rest: str, classes: int | None, size: object) -> Dataset:
    if classes is not None or size is not None:
        raise ValueError(f"DATA {name!r} takes no options classes= or size=; leave them out.")
    if rest and name == "digits":
        raise ValueError(f"DATA 'digits' ships with the package and takes no folder, got {rest!r}; write digits.")
    loader = NAMES[name][0]
    return loader(rest) if rest else loader()


def _text(target: str, name: str, rest: str, classes: int | None, size: object, **options: Any) -> Dataset:
    if classes is not None or size is not None:
        raise ValueError(f"DATA {target!r} is a text and takes no options classes= or size=; leave them out.")
    if options["length"] is None:
        del options["length"]
    if name not in TEXTS:
        return load_text(Path(target).expanduser(), **options)
    if rest:
        raise ValueError(f"DATA {name!r} ships with the package and takes no file, got {rest!r}; write {name}.")
    return shakespeare(**options)


def _file(path: Path, classes: int | None) -> Dataset:
    if path.suffix == ".npz":
        return load_npz(path, classes=classes)
    if is_idx_name(path.name):
        return load_idx(path, classes=classes)
    if path.suffix == ".py":
        raise ValueError(f"DATA {str(path)!r} is a Python file; say which function to call: {path}:NAME.")
    if path.suffix == ".npy":
        raise ValueError(
            f"DATA {str(path)!r} is one array without targets; save both with numpy.savez(FILE, x=.., y=..)."
        )
    with path.open("rb") as stream:
        start = stream.read(4)
    if start[:2] == b"PK":
        return load_npz(path, classes=classes)
    if start[:2] == b"\x00\x00":
        return load_idx(path, classes=classes)
    raise ValueError(
        f"DATA {str(path)!r} is of no known format; give an .npz file, an IDX file, a text (.txt), a folder of images, "
        "or path/to/file.py:name for a function that reads it."
    )


def _from_callable(reference: str, classes: int | None) -> Dataset:
    target: Any = load_callable(reference, argument="DATA")
    data_types = (Dataset, torch.utils.data.Dataset, torch.utils.data.DataLoader)
    if callable(target) and not isinstance(target, data_types):
        try:
            target = target()
        except (Exception, SystemExit) as error:  # a script's main() may end with sys.exit()
            raise BadReferenceError(f"DATA: {reference} raised when called:\n{short_traceback(error)}") from error
    if isinstance(target, str):
        raise BadReferenceError(
            f"DATA: {reference} gave the string {target!r}; return (inputs, targets) or a data set."
        )
    try:
        return as_dataset(target, name=reference, classes=classes)
    except (TypeError, ValueError) as error:
        raise type(error)(f"DATA {reference!r}: {error}") from error


def _split(reference: str) -> tuple[str, dict[str, str]]:
    target, separator, tail = reference.rpartition(":")
    if separator and re.match(r"^\w+\s*=", tail):
        return target, _options(tail)
    return reference, {}


def _options(text: str) -> dict[str, str]:
    """Read ``key=value,key=value``.

    Returns:
        The values by key, still strings.

    Raises:
        ValueError: If a part has no ``=`` or a key is unknown.
    """
    options: dict[str, str] = {}
    for part in text.split(","):
        key, separator, value = (p.strip() for p in part.partition("="))
        if not separator or not value:
            raise ValueError(f"DATA option {part!r} has no value; write key=value.")
        if key not in _OPTIONS:
            error: ValueError = unknown_name("DATA option", key, _OPTIONS)
            raise error
        options[key] = value
    return options


def _positive(key: str, text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"DATA option {key}={text!r} must be a positive whole number.")
    return int(text)


def _size(text: str) -> int | tuple[int, int]:
    height, separator, width = text.lower().partition("x")
    if not separator:
        return _positive("size", height)
    return _positive("size", height), _positive("size", width)
