"""Handwritten digits, 8 x 8, that ship with the package.

Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998 (CC BY 4.0); the
1,797 images are the copy in scikit-learn, in its order (``sklearn.datasets.load_digits``).

The file ``digits.npz`` holds ``images`` (1797, 8, 8) uint8 with values 0..16, ``labels`` (1797,) uint8 and ``test``,
the sorted indices of the 360 test images. They are drawn once, by class: shuffle all indices with
``numpy.random.RandomState(0).permutation``; of each class, in that order, the first ``floor(n_c * 360 / 1797)``, and
one more from the classes with the largest remainders until there are 360.
"""

from __future__ import annotations

import importlib.resources
import io

import numpy as np

from isometry.data._dataset import Dataset
from isometry.data._standardize import standardized

__all__ = ["digits"]


def digits() -> Dataset:
    """Load the digits that ship with the package.

    Returns:
        1,437 training and 360 test images of shape (1, 8, 8) in 10 classes, standardized.

    Example:
        >>> digits().shape
        (1, 8, 8)
    """
    packed = importlib.resources.files("isometry.data").joinpath("digits.npz").read_bytes()
    with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
        images, labels, test = arrays["images"][:, None], arrays["labels"], arrays["test"]
    train = np.setdiff1d(np.arange(len(images)), test)
    return standardized(
        "digits",
        images[train],
        labels[train],
        images[test],
        labels[test],
        classes=10,
        source="UCI Optical Recognition of Handwritten Digits, through scikit-learn",
        licence="CC BY 4.0",
    )
