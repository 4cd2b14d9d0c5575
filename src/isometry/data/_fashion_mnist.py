"""Fashion-MNIST from the files that a system package or a folder holds; nothing is downloaded.

Xiao, Rasul and Vollgraf, Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms, 2017
(arXiv 1708.07747; MIT licence).
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from isometry.data._dataset import Dataset
from isometry.data._idx import read_idx
from isometry.data._standardize import standardized

__all__ = ["fashion_mnist"]

_DEBIAN = Path("/usr/share/datasets/fashion-mnist")
_HOW = (
    "On Debian or Ubuntu: apt install dataset-fashion-mnist. Elsewhere: put the four files train-images-idx3-ubyte.gz, "
    "train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz into one folder and say "
    "fashion-mnist:FOLDER, or set ISOMETRY_DATA to the folder."
)


def fashion_mnist(folder: str | None = None) -> Dataset:
    """Load Fashion-MNIST.

    Args:
        folder: The folder of the four IDX files; by default ``$ISOMETRY_DATA``, its subfolder ``fashion-mnist``, or
            where Debian's package puts them.

    Returns:
        60,000 training and 10,000 test images of shape (1, 28, 28) in 10 classes, standardized.

    Raises:
        ValueError: If the files are not there (the message says how to get them) or do not fit together.
    """
    found = _folder(folder)
    parts = []
    for split in ("train", "t10k"):
        images = read_idx(_file(found, f"{split}-images-idx3-ubyte"))
        labels = read_idx(_file(found, f"{split}-labels-idx1-ubyte"))
        if images.shape[1:] != (28, 28) or labels.shape != images.shape[:1] or not len(images):
            raise ValueError(
                f"DATA 'fashion-mnist': the {split} files in {found} hold images of shape {images.shape} and labels of "
                f"shape {labels.shape}, not (n, 28, 28) and (n,). {_HOW}"
            )
        parts += [np.ascontiguousarray(images[:, None]), labels]
    return standardized(
        "fashion-mnist",
        *parts,
        classes=10,
        source=f"Fashion-MNIST (Xiao, Rasul and Vollgraf 2017), files in {found}",
        licence="MIT",
    )


def _folder(folder: str | None) -> Path:
    root = os.environ.get("ISOMETRY_DATA")
    if folder is not None:
        places = [Path(folder).expanduser()]
    elif root:
        places = [Path(root).expanduser() / "fashion-mnist", Path(root).expanduser(), _DEBIAN]
    else:
        places = [_DEBIAN]
    for place in places:
        if any((place / f"train-images-idx3-ubyte{suffix}").is_file() for suffix in (".gz", "")):
            return place
    raise ValueError(f"DATA 'fashion-mnist' is not in {' or '.join(str(p) for p in places)}. {_HOW}")


def _file(folder: Path, name: str) -> Path:
    for suffix in (".gz", ""):
        if (folder / (name + suffix)).is_file():
            return folder / (name + suffix)
    raise ValueError(f"DATA 'fashion-mnist': {folder} has no {name}(.gz). {_HOW}")
