"""The one standardization that the named image sets share."""

from __future__ import annotations

import numpy as np
import torch

from isometry.data._dataset import Dataset

__all__ = ["standardized"]


def standardized(
    name: str,
    images: np.ndarray,
    labels: np.ndarray,
    test_images: np.ndarray,
    test_labels: np.ndarray,
    *,
    classes: int,
    source: str,
    licence: str,
) -> Dataset:
    """Remove the training set's mean image and divide by one standard deviation.

    One number for all pixels keeps the images' contrasts: pixels that hardly vary stay small instead of turning to
    noise. The test images get the same shift and factor.

    Args:
        name: Name of the data set.
        images: (N, C, H, W), uint8.
        labels: (N,), whole numbers.
        test_images: (M, C, H, W), uint8.
        test_labels: (M,), whole numbers.
        classes: Number of classes.
        source: Where the images come from.
        licence: Their licence.

    Returns:
        The data set, in torch's default dtype.
    """
    dtype = torch.get_default_dtype()
    x = torch.from_numpy(images).to(dtype)
    mean = x.mean(dim=0)
    x -= mean
    scale = float(torch.linalg.vector_norm(x, dtype=torch.float64)) / x.numel() ** 0.5
    x /= scale
    x_test = torch.from_numpy(test_images).to(dtype).sub_(mean).div_(scale)
    return Dataset(
        name,
        x,
        torch.from_numpy(labels.astype(np.int64)),
        classes,
        x_test,
        torch.from_numpy(test_labels.astype(np.int64)),
        (f"standardized: mean image removed, divided by one standard deviation ({scale:.4g})",),
        source,
        licence,
    )
