"""Image models of the timm library, with random weights."""

from __future__ import annotations

import importlib
from typing import Any

from torch import nn

from isometry._base import BadReferenceError, unknown_name
from isometry.nn._options import read_options

__all__ = ["TIMM", "timm_model"]

TIMM = "timm:"


def timm_model(reference: str, *, in_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Build the model that a reference names.

    Args:
        reference: ``timm:NAME`` (``timm:resnet18``, ``timm:convnext_atto``, ...), then, after commas, any argument of
            ``timm.create_model``, as in ``timm:vit_tiny_patch16_224,img_size=32``. Channels and classes are taken from
            the data unless they are given.
        in_shape: Shape of one input, channels first, without the batch.
        classes: Number of outputs.

    Returns:
        The model; nothing is downloaded.

    Raises:
        BadReferenceError: If the library is not installed, or knows no such model or argument.
    """
    try:
        timm: Any = importlib.import_module("timm")
    except (
        ImportError,
        RuntimeError,
    ) as error:  # torchvision, which it needs, raises RuntimeError beside another torch
        raise BadReferenceError(
            f"MODEL timm:... needs the timm library, which cannot be imported ({error}); pip install isometry[timm], "
            "with a torchvision that fits your torch."
        ) from error
    name, *parts = reference.removeprefix(TIMM).split(",")
    options = read_options(parts, reference)
    known = timm.list_models()
    if name not in known:
        raise BadReferenceError(f"MODEL {reference!r}: {unknown_name('model of timm', name, known)}")
    if len(in_shape) != 3:
        raise BadReferenceError(f"MODEL {reference!r} takes images (channels, height, width), the data are {in_shape}.")
    wanted = {"in_chans": in_shape[0], "num_classes": classes, **options, "pretrained": False}
    try:
        made: nn.Module = timm.create_model(name, **wanted)
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
        raise BadReferenceError(f"MODEL {reference!r}: {type(error).__name__}: {first}") from error
    return made
