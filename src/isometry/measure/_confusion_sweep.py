"""The Gram matrix of single samples' gradients by one sweep, and a check on it.

The gradient of sample n's loss is J_n^T c_n with J_n the Jacobian of its output in the parameters and c_n the loss's
gradient in the output. Inner products of such vectors are sums over layers of products of activations' and cotangents'
Gram matrices. This is the one place where gradient confusion touches that machinery.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from isometry._base import team_for
from isometry.measure._confusion_guards import only_require
from isometry.measure._confusion_loss import nonfinite_samples
from isometry.measure._fisher_setup import choose_parameters
from isometry.measure._gram import CHUNK_BYTES, accumulate
from isometry.measure._gram_plan import Plan, make_plan
from isometry.measure._gram_sums import FullGram
from isometry.measure._guards import allowed_residual, differentiable, run_model
from isometry.measure._share import outputs_of_all, share_of
from isometry.tape import Inputs, untouched

__all__ = ["Planned", "check_by_pass", "matrix_bytes", "plan_gram", "sweep"]


@dataclass(frozen=True, eq=False)
class Planned:
    """A matrix that is planned, and its model's output.

    Attributes:
        model: The model.
        x: The batch.
        plan: How each parameter's rows are had.
        out: The output, detached.
    """

    model: nn.Module
    x: Inputs
    plan: Plan
    out: Tensor

    @property
    def layers(self) -> tuple[str, ...]:
        """The modules that hold chosen parameters, in the model's order."""
        return tuple(dict.fromkeys(self.plan.group_of(name) for name in self.plan.parameters))

    def foreseen(self, *, per_layer: bool) -> int:
        """Foresee the peak memory: the matrix, its parts, activations and cotangents.

        Returns:
            Bytes, not counting the parameters.
        """
        samples, item = self.plan.samples, self.out.element_size()
        calls = self.plan.calls.values()
        activations = team_for(samples).shares(samples)[0] * item * sum(c.input_numel + c.output_numel for c in calls)
        widest = samples * max((c.output_numel for c in calls), default=0) * (2 * item + 8)
        formed = CHUNK_BYTES if self.plan.general or any(c.kind != "linear" for c in calls) else 0
        parts = 8 * samples**2 * len(self.layers) if per_layer else 0
        return matrix_bytes(samples) + parts + activations + widest + formed


def matrix_bytes(samples: int) -> int:
    """Foresee the memory of the matrix alone, with the products that are added to it.

    Returns:
        Bytes.
    """
    return 3 * 8 * samples**2


def plan_gram(model: nn.Module, x: Inputs, params: str | Iterable[str]) -> Planned:
    """Run the model once and plan the matrix.

    Returns:
        The plan.
    """
    batch = x.clone()
    parameters = choose_parameters(model, params)
    with untouched(model):
        with torch.no_grad():
            out = outputs_of_all(lambda part: run_model(model, part.clone()), batch)
        nonfinite_samples("the model's output is", out)
        return Planned(model, batch, make_plan(model, batch, parameters), out)


def sweep(planned: Planned, back: Tensor, *, per_layer: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the matrix.

    Args:
        planned: From ``plan_gram``.
        back: The losses' gradients in the output, of its shape.
        per_layer: Whether the layers' parts are wanted.

    Returns:
        The matrix (N, N), float64, and its parts by layer, which add up to it.

    Raises:
        ValueError: If it is not finite.
    """
    samples, device = planned.plan.samples, planned.out.device
    share = share_of(planned.x, planned.plan)
    sums = {name: FullGram(1, samples, device) for name in (planned.layers if per_layer else ("",))}

    def restart() -> None:
        for total in sums.values():
            total.restart()

    with untouched(planned.model), torch.enable_grad():
        for parameter in planned.model.parameters():
            parameter.requires_grad_(False)
        accumulate(
            planned.model,
            share.x,
            share.plan,
            lambda _out: back[share.part].unsqueeze(0),
            lambda layer: sums[layer if per_layer else ""],
            restart=restart,
            team=share.team,
        )
    for name, total in sums.items():
        share.team.total(total.matrix, f"the Gram matrix of {name or 'all layers'}")
    parts = {name: total.finish() for name, total in sums.items()}
    gram = parts[""] if not per_layer else torch.zeros(samples, samples, dtype=torch.float64, device=device)
    if per_layer:
        for part in parts.values():
            gram += part
    if not bool(torch.isfinite(gram).all()):
        raise ValueError(
            "the gradients are not finite (NaN or infinity) on this batch although the outputs are: they overflow on "
            f"their way back in {planned.out.dtype}. measure.signal says in which layers; model.double() may have the "
            "range."
        )
    return gram, parts if per_layer else {}


def check_by_pass(planned: Planned, back: Tensor, gram: Tensor) -> float:
    """Compare the matrix with an ordinary backward pass in one random combination of the samples.

    Returns:
        The relative difference of u^T G u and |sum_n u_n g_n|^2; NaN if the model cannot be differentiated like that
        because it overwrites in place what its own training would need.

    Raises:
        RuntimeError: If it is too large for rounding.
    """
    # A fixed combination: the check must not touch anybody's random numbers.
    u = torch.randn(len(gram), dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(gram.device)
    chosen = [*planned.plan.parameters.values()]
    share = share_of(planned.x, planned.plan)
    grads: tuple[Tensor | None, ...]
    with untouched(planned.model), differentiable(planned.model):
        only_require(planned.model, chosen)
        try:
            out = share.x.clone().run(planned.model)
            mixed = (u.to(back).view(-1, *[1] * (back.ndim - 1)) * back)[share.part]
            grads = torch.autograd.grad(out, chosen, mixed, allow_unused=True) if out.requires_grad else ()
        except RuntimeError as error:
            if "inplace operation" in str(error):
                return float("nan")
            raise
    if share.team.size > 1:
        own = grads or (None,) * len(chosen)
        grads = tuple(
            share.team.total(torch.zeros_like(p) if g is None else g, f"the gradient of {name}")
            for (name, p), g in zip(planned.plan.parameters.items(), own, strict=True)
        )
    by_pass = sum(float(torch.linalg.vector_norm(g, dtype=torch.float64)) ** 2 for g in grads if g is not None)
    by_gram = float(u @ (gram @ u))
    scale = max(by_gram, by_pass)
    residual = abs(by_gram - by_pass) / scale if scale > 0 else 0.0
    if residual > allowed_residual(planned.out.dtype):
        raise RuntimeError(
            f"the Gram matrix and an ordinary backward pass disagree by {residual:.1e} of their value: the model is "
            "probably not a function of each sample alone (its output for one depends on the others, or on how many "
            "there are), so single samples have no gradients; use gradient_confusion with batch_size= and "
            'route="passes".'
        )
    return residual
