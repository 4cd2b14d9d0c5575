"""Parameters of which every process holds a part (DTensor, as FSDP2 makes them), in a few functions.

Nothing of ``torch.distributed`` is imported until a sharded parameter is met.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "agreed_maximum",
    "is_sharded",
    "local",
    "local_part",
    "same_placement",
    "sharded_like",
    "total_over_shards",
    "versions",
    "whole",
]

_PLAIN = (Tensor, torch.nn.Parameter)  # asked first, since it is asked of every parameter in every step


def is_sharded(tensor: Tensor) -> bool:
    """Tell whether a tensor is a DTensor.

    Returns:
        Whether it is.
    """
    return type(tensor) not in _PLAIN and hasattr(tensor, "full_tensor")


def local(tensor: Tensor) -> Tensor:
    """Give what this process holds of a tensor.

    Returns:
        A plain detached tensor that shares its memory; the tensor itself if it is one.
    """
    if type(tensor) is Tensor and not tensor.requires_grad:
        return tensor
    held: Any = tensor.detach()
    part: Tensor = held.to_local() if is_sharded(tensor) else held
    return part


def whole(tensor: Tensor) -> Tensor:
    """Gather a tensor; all processes must ask at the same point.

    Returns:
        A plain detached tensor of the full shape.
    """
    held: Any = tensor.detach()
    gathered: Tensor = held.full_tensor() if is_sharded(tensor) else held
    return gathered


def local_part(value: Tensor, parameter: Any) -> Tensor:
    """Cut this process's part out of a value that all processes have; nothing is sent.

    Returns:
        A plain tensor of the shape of the parameter's local part.
    """
    if not is_sharded(parameter):
        return value
    from torch.distributed.tensor import distribute_tensor

    parted: Any = distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)
    part: Tensor = parted.to_local()
    return part


def same_placement(tensor: Any, parameter: Any) -> Tensor:
    """Bring a sharded gradient to the placement of its parameter, if it has another one.

    Returns:
        The tensor.
    """
    if is_sharded(tensor) and is_sharded(parameter) and tensor.placements != parameter.placements:
        return tensor.redistribute(parameter.device_mesh, parameter.placements)  # type: ignore[no-any-return]
    return tensor  # type: ignore[no-any-return]


def sharded_like(part: Tensor, parameter: Any, shape: torch.Size | None = None) -> Tensor:
    """Declare a part of a state to be sharded as its parameter is, so that checkpoints gather it.

    Args:
        part: What this process has of it.
        parameter: The parameter.
        shape: The shape of the whole state, if it is not the parameter's.

    Returns:
        A DTensor around the part; the part itself for plain parameters.
    """
    if not is_sharded(parameter):
        return part
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        part,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape if shape is None else shape,
        stride=parameter.stride() if shape is None else torch.empty(shape, device="meta").stride(),
    )


def versions(parameters: Sequence[Any]) -> tuple[int, ...]:
    """Count the writes to parameters that torch has seen; all of them are sharded, or none.

    Returns:
        Numbers that grow with each write.
    """
    counts = tuple([p._version for p in parameters])
    if is_sharded(parameters[0]):
        return tuple(count + p._local_tensor._version for count, p in zip(counts, parameters, strict=True))
    return counts


def agreed_maximum(number: int, parameters: Sequence[Any]) -> int:
    """Take the largest of all processes' numbers, over the meshes of the sharded parameters among those given.

    Returns:
        The number itself if none is sharded.
    """
    meshes = {id(p.device_mesh): p.device_mesh for p in parameters if is_sharded(p)}
    if not meshes:
        return number
    from torch.distributed.tensor import DTensor, Partial

    for mesh in meshes.values():
        mine = torch.tensor([number], dtype=torch.int64, device=mesh.device_type)
        number = int(DTensor.from_local(mine, mesh, [Partial("max")] * mesh.ndim, run_check=False).full_tensor())
    return number


def total_over_shards(numbers: Sequence[Tensor], parameters: Sequence[Any]) -> Tensor:
    """Add numbers up that each process has of its part of some parameters; what is replicated counts once.

    Args:
        numbers: One of shape ``()`` for each parameter.
        parameters: The parameters.

    Returns:
        Shape ``()``, the same on all processes, on the first number's device.
    """
    placed: dict[Any, Tensor] = {}
    for number, parameter in zip(numbers, parameters, strict=True):
        key = (parameter.device_mesh, parameter.placements) if is_sharded(parameter) else None
        placed[key] = placed[key] + number.to(placed[key].device) if key in placed else number
    total = numbers[0].new_zeros(())
    for key, number in placed.items():
        total = total + (number if key is None else _over_mesh(number, *key)).to(total.device)
    return total


def _over_mesh(number: Tensor, mesh: Any, placements: Sequence[Any]) -> Tensor:
    from torch.distributed.tensor import DTensor, Partial, Replicate

    spread = [Partial("sum") if placement.is_shard() else Replicate() for placement in placements]
    summed: Tensor = DTensor.from_local(number, mesh, spread, run_check=False).full_tensor()
    return summed
