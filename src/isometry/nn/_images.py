"""How the reference models look at one input: as an image or as a sequence."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["AsImage", "AsSequence", "image_shape", "sequence_shape"]


class AsImage(nn.Module):
    """Give inputs of shape ``(B, H, W)`` their channel axis; leave ``(B, C, H, W)`` alone."""

    def forward(self, x: Tensor) -> Tensor:
        return x.unsqueeze(1) if x.ndim == 3 else x


class AsSequence(nn.Module):
    """Read each input as a sequence, batch first: ``(B, T, F)``.

    Vectors become one number per step, images ``(C, H, W)`` one row per step.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim == 2:
            return x.unsqueeze(-1)
        if x.ndim == 4:
            return x.transpose(1, 2).flatten(2)
        return x


def image_shape(kind: str, in_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Read a shape as that of an image.

    Returns:
        ``(C, H, W)``.

    Raises:
        ValueError: If the shape is neither ``(C, H, W)`` nor ``(H, W)``.
    """
    if len(in_shape) == 2:
        return (1, *in_shape)
    if len(in_shape) == 3:
        return in_shape
    raise ValueError(
        f"{kind} needs images, in_shape (C, H, W) or (H, W), got {in_shape}; reshape the data, or use mlp."
    )


def sequence_shape(kind: str, in_shape: tuple[int, ...]) -> tuple[int, int]:
    """Read a shape as that of a sequence.

    Returns:
        ``(T, F)``: steps and features per step.

    Raises:
        ValueError: If the shape has more than three axes.
    """
    if len(in_shape) == 1:
        return (in_shape[0], 1)
    if len(in_shape) == 2:
        return in_shape
    if len(in_shape) == 3:
        return (in_shape[1], in_shape[0] * in_shape[2])
    raise ValueError(f"{kind} needs in_shape (T,), (T, F) or (C, H, W), got {in_shape}; reshape the data, or use mlp.")
