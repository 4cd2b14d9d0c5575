"""``.npz`` files: named NumPy arrays, read without executing anything."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from isometry.data._convert import from_mapping
from isometry.data._dataset import Dataset

__all__ = ["load_npz"]


def load_npz(path: Path, *, classes: int | None = None) -> Dataset:
    """Load a data set from an ``.npz`` file.

    Args:
        path: The file; its arrays are named x and y, inputs and targets, or x_train, y_train, x_test, y_test.
        classes: Number of classes; by default one more than the largest label.

    Returns:
        The data set; values are not rescaled.

    Raises:
        ValueError: If the file is damaged, holds Python objects, or its arrays' names are unclear.
        OSError: If it cannot be opened.
    """
    arrays: dict[str, np.ndarray] = {}
    argument = f"DATA {str(path)!r}"
    try:
        with path.open("rb") as stream:
            if stream.read(6) == b"\x93NUMPY":
                raise ValueError(f"{argument} is one bare array, not an .npz archive; save with numpy.savez.")
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                with archive.open(member) as stream:
                    arrays[member.removesuffix(".npy")] = _array(stream, f"{argument}: array {member!r}")
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the system's, and no damage
            raise OSError(f"{argument} cannot be opened: {error.strerror}; mend that, or give another file.") from error
        raise ValueError(f"{argument} is not a readable .npz file ({error}); save it with numpy.savez.") from error
    return from_mapping(arrays, name=path.name, classes=classes, source=str(path), argument=argument)


def _array(stream: IO[bytes], argument: str) -> np.ndarray:
    try:
        array: np.ndarray = np.lib.format.read_array(stream, allow_pickle=False)
    except ValueError as error:
        raise ValueError(
            f"{argument} cannot be read ({error}); arrays of Python objects are refused, since reading them would run "
            "code. Save numbers."
        ) from error
    return array
