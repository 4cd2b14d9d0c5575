"""The look at all gradients that comes before anything is touched."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from isometry.optim._rule import Member
from isometry.optim._sharded import agreed_maximum, is_sharded, local

__all__ = ["GradientLook"]


class GradientLook:
    """A look at gradients for NaN and infinity, in one pass and with one number for the host.

    The norms are all finite where every entry is, unless squares overflow, so only a norm that is not finite makes it
    worth looking at entries.

    Attributes:
        is_under_way: Whether the number is still on its way from a CUDA device. The host then has time to prepare the
            first part of the step, which the device would wait for otherwise; ``insist`` comes before it is written.

    Args:
        members: Parameters that have gradients.

    Raises:
        ValueError: If a gradient is sparse, or without values (meta); the message names the first such parameter.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        for member in members:
            _check_kind(member)
        self._members = members
        self._gradients = [local(m.parameter.grad) for m in members if m.parameter.grad is not None]
        norms = list(torch._foreach_norm(self._gradients)) if self._gradients else []
        one_device = len({norm.device for norm in norms}) == 1
        self._fine = [torch.isfinite(torch.stack(norms)).all()] if one_device else [torch.isfinite(n) for n in norms]
        # Processes that agree on what they have seen wait for each other anyway.
        self.is_under_way = one_device and self._fine[0].is_cuda and not any(is_sharded(m.parameter) for m in members)
        if self.is_under_way:
            stream = torch.cuda.current_stream(self._fine[0].device)
            self._fine = [self._fine[0].to("cpu", non_blocking=True)]
            self._arrival = stream.record_event()

    def insist(self) -> None:
        """Refuse gradients that are not finite.

        Raises:
            ValueError: If one holds a non-finite value; the message names the first such parameter.
        """
        if self.is_under_way:
            self._arrival.synchronize()
        gradients, members = self._gradients, self._members
        fine = all(map(bool, self._fine))
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
                f"the gradient of {members[first - 1].name} {held}; no parameter was changed. Look for the cause in "
                "the loss, lower the learning rate, or clip the gradients; to go on without this step, skip it "
                "(zero_grad)."
            )


def _check_kind(member: Member) -> None:
    gradient = member.parameter.grad
    if gradient is None:
        return
    if gradient.layout != torch.strided:
        raise ValueError(
            f"{member.name} has a sparse gradient (layout {gradient.layout}), which this optimizer cannot take; "
            "pass sparse=False to the embedding, or give the parameter to torch.optim.SparseAdam."
        )
    if gradient.is_meta:
        raise ValueError(
            f"{member.name} is on the meta device and has no values to move; make it real "
            "(module.to_empty(device=...), then initialize it) before the first step."
        )


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())
