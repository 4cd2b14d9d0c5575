"""The look at all gradients that comes before anything is touched."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from isometry.optim._rule import Member
from isometry.optim._sharded import agreed_maximum, local

__all__ = ["check_gradients"]


def check_gradients(members: Sequence[Member]) -> None:
    """Insist on dense gradients without NaN and infinity, in one pass and with one look from the host.

    The norms are all finite where every entry is, unless squares overflow, so only a norm that is not finite makes it
    worth looking at entries.

    Args:
        members: Parameters that have gradients.

    Raises:
        ValueError: If a gradient is sparse, without values (meta), or holds a non-finite value; the message names the
            first such parameter.
    """
    for member in members:
        gradient = member.parameter.grad
        if gradient is not None and gradient.layout != torch.strided:
            raise ValueError(
                f"{member.name} has a sparse gradient (layout {gradient.layout}), which this optimizer cannot take; "
                "pass sparse=False to the embedding, or give the parameter to torch.optim.SparseAdam."
            )
        if gradient is not None and gradient.is_meta:
            raise ValueError(
                f"{member.name} is on the meta device and has no values to move; make it real "
                "(module.to_empty(device=...), then initialize it) before the first step."
            )
    gradients = [local(member.parameter.grad) for member in members if member.parameter.grad is not None]
    if not gradients:
        return
    norms = torch._foreach_norm(gradients)
    one_device = len({norm.device for norm in norms}) == 1
    fine = bool(torch.isfinite(torch.stack(norms)).all()) if one_device else all(map(_finite, norms))
    first = 0 if fine else next((i for i, g in enumerate(gradients, 1) if not _finite(g)), 0)
    # A process whose shards are fine must stop too, or the others would wait for it.
    first = agreed_maximum(first, [member.parameter for member in members])
    if first:
        gradient = gradients[first - 1]
        bad = int((~torch.isfinite(gradient)).sum())
        held = (
            f"holds {bad} non-finite value{'' if bad == 1 else 's'} (NaN or infinity) of {gradient.numel()}"
            if bad
            else "holds NaN or infinity on another process"
        )
        raise ValueError(
            f"the gradient of {members[first - 1].name} {held}; no parameter was changed. Look for the cause in the "
            "loss, lower the learning rate, or clip the gradients; to go on without this step, skip it (zero_grad)."
        )


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())
