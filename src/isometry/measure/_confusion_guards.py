"""What decides whether a gradient is one: samples that mix, and chance."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from isometry.measure._guards import Mixing, ModelCallError, check_per_sample, run_model, sample_mixing
from isometry.tape import Inputs, untouched

__all__ = ["batch_statistics", "check_single", "check_still", "only_require"]


def batch_statistics(model: nn.Module) -> tuple[Mixing, ...]:
    """Find the normalizations that use the batch's statistics, and refuse models that drop units at random.

    A mini-batch has a gradient in spite of the former; under the latter two gradients differ by chance alone.

    Returns:
        The normalizations.
    """
    mixing = sample_mixing(model)
    found = tuple(m for m in mixing if isinstance(model.get_submodule(m.name), _BatchNorm))
    if len(found) < len(mixing):
        check_per_sample(
            model,
            "The gradient of a sample or mini-batch is",
            "Switch the random modules off with .eval(); normalizations may stay in training mode for mini-batches.",
        )
    return found


def check_single(model: nn.Module) -> None:
    """Refuse a model whose single samples have no gradients of their own."""
    check_per_sample(
        model,
        "The gradient of a single sample is",
        "Call model.eval() first, or measure mini-batches: gradient_confusion with batch_size= of the training.",
    )


def check_still(model: nn.Module, x: Inputs) -> None:
    """Refuse a model that draws random numbers in its forward pass.

    Args:
        model: The model, in the modes in which it will be measured.
        x: The batch; two samples suffice.

    Raises:
        ValueError: If the state of torch's random generators moved.
    """
    with untouched(model), torch.no_grad():
        before = _states(x.device)
        try:
            run_model(model, x[:2].clone())
        except ModelCallError:
            return  # the measurement itself will say so, about the whole batch
        moved = any(not torch.equal(a, b) for a, b in zip(before, _states(x.device), strict=True))
    if moved:
        raise ValueError(
            "model draws random numbers in its forward pass, so two of its gradients differ by chance alone; switch "
            "the randomness off (model.eval(), or a fixed noise)."
        )


def _states(device: torch.device) -> list[Tensor]:
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def only_require(model: nn.Module, parameters: Iterable[nn.Parameter]) -> None:
    """Let gradients flow to these parameters and no others; for use inside ``untouched``, which puts the flags back."""
    chosen = {id(p) for p in parameters}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in chosen)
