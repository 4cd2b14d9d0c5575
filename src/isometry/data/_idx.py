"""IDX files, the format of MNIST and its kin: a magic number, the sizes, then the values, big-endian.

LeCun, Cortes and Burges, The MNIST database of handwritten digits, 1998 (the description of the format).
"""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from math import prod
from pathlib import Path

import numpy as np

from isometry.data._convert import from_arrays
from isometry.data._dataset import Dataset

__all__ = ["is_idx_name", "load_idx", "read_idx"]

_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_NAME = re.compile(r"(?:[-_.]idx\d[-_.]?|-ubyte|\.idx)(?:.*)?(?:\.gz)?$", re.IGNORECASE)


def is_idx_name(name: str) -> bool:
    """Tell IDX files by their name, as in ``train-images-idx3-ubyte.gz``.

    Returns:
        Whether the name says so.
    """
    return _NAME.search(name) is not None


def read_idx(path: Path) -> np.ndarray:
    """Read one IDX file, plain or gzipped.

    Args:
        path: The file.

    Returns:
        The array, in native byte order.

    Raises:
        ValueError: If it is not an IDX file, or its length does not fit its header.
    """
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"DATA {str(path)!r} is a damaged gzip file ({error}); fetch it again.") from error
    if len(raw) < 4 or raw[:2] != b"\x00\x00" or raw[2] not in _DTYPES or raw[3] == 0:
        raise ValueError(
            f"DATA {str(path)!r} is not an IDX file: it starts with {raw[:4].hex(' ') or 'nothing'}, not with two zero "
            "bytes, a type code and a number of dimensions."
        )
    ndim = raw[3]
    start = 4 + 4 * ndim
    if len(raw) < start:
        raise ValueError(f"DATA {str(path)!r} ends inside its header; fetch it again.")
    shape = struct.unpack(f">{ndim}I", raw[4:start])
    dtype = np.dtype(_DTYPES[raw[2]])
    needed = prod(shape) * dtype.itemsize
    if len(raw) - start != needed:
        raise ValueError(
            f"DATA {str(path)!r} says shape {shape} ({needed} bytes) but holds {len(raw) - start} "
            "bytes; fetch it again."
        )
    return np.frombuffer(raw, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def load_idx(path: Path, *, classes: int | None = None) -> Dataset:
    """Load images from an IDX file, with the labels that lie beside it.

    ``train-images-idx3-ubyte`` goes with ``train-labels-idx1-ubyte``; ``t10k-*`` or ``test-*`` beside a ``train-*``
    file becomes the test set. Values are not rescaled. Images without a channel axis get one.

    Args:
        path: The file of images, plain or ``.gz``.
        classes: Number of classes; by default one more than the largest label.

    Returns:
        The data set.

    Raises:
        ValueError: If the labels are missing or the file holds labels.
    """
    images = read_idx(path)
    if images.ndim == 1:
        raise ValueError(f"DATA {str(path)!r} holds one number a sample, labels perhaps; give the file of images.")
    label_path = _beside(path, "images", "labels")
    if label_path is None:
        raise ValueError(
            f"DATA {str(path)!r} has no file of labels beside it; put one there whose name has 'labels' for 'images' "
            "and 'idx1' for 'idx3', or use an .npz file."
        )
    notes = [f"labels from {label_path.name}"]
    test: tuple[np.ndarray | None, np.ndarray | None] = (None, None)
    for prefix in ("t10k", "test"):
        test_path = _beside(path, "train", prefix)
        test_labels = _beside(test_path, "images", "labels") if test_path is not None else None
        if test_path is not None and test_labels is not None:
            test = (_with_channel(read_idx(test_path)), read_idx(test_labels))
            notes.append(f"test set from {test_path.name}")
            break
    return from_arrays(
        _with_channel(images), read_idx(label_path), *test, name=path.name, classes=classes, notes=tuple(notes),
        source=str(path),
    )  # fmt: skip


def _with_channel(images: np.ndarray) -> np.ndarray:
    return images[:, None] if images.ndim == 3 else images


def _beside(path: Path, old: str, new: str) -> Path | None:
    """Find the partner of a file: the same name with a word exchanged, gzipped or not.

    Returns:
        Its path, or None if there is none.
    """
    if old not in path.name:
        return None
    swapped = path.name.replace(old, new)
    if new == "labels":
        swapped = re.sub(r"idx\d", "idx1", swapped)
    bare = swapped.removesuffix(".gz")
    for name in (swapped, bare, bare + ".gz"):
        if (path.parent / name).is_file():
            return path.parent / name
    return None
