"""Reading and writing parameters whole, of which a process may hold a shard only (DTensor, as FSDP2 makes them)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

__all__ = ["whole", "write_whole"]


def whole(parameter: Tensor) -> Tensor:
    """Read a parameter, gathering the shards of a DTensor.

    Returns:
        A plain detached tensor.
    """
    detached = parameter.detach()
    gather = getattr(detached, "full_tensor", None)
    return gather() if gather is not None else detached


def write_whole(parameter: Tensor, value: Tensor) -> None:
    """Overwrite a parameter, or this process's shard of it, with a value that all processes have.

    Args:
        parameter: The parameter; changed in place.
        value: A plain tensor of its whole shape.
    """
    target: Any = parameter.detach()
    value = value.to(target.dtype)
    if hasattr(target, "full_tensor"):
        from torch.distributed.tensor import distribute_tensor  # only sharded parameters need it

        # Every process has the value already, so nothing is sent.
        value = distribute_tensor(value, target.device_mesh, target.placements, src_data_rank=None)
    target.copy_(value)
