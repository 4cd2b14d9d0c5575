"""Full-batch gradient descent on a whole ensemble of small networks at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from isometry._base import Cost, Result, check_finite, check_positive, check_tensor, progress, stopwatch
from isometry.theory._derivatives import TensorFunction, tensor_function
from isometry.theory._resolve import ActivationLike
from isometry.training._objective import Likelihood, infer_likelihood, objective

__all__ = ["EnsembleCurve", "fit_ensemble"]


@dataclass(frozen=True)
class EnsembleCurve(Result):
    """What became of every network; a network that diverged has NaN from there on.

    Attributes:
        loss: Training loss before each step and after the last, in nats (steps + 1, networks).
        test_loss: Test loss after the last step (networks,); NaN without a test set.
        accuracy: Share of the training set classified rightly after the last step (networks,); NaN for real targets.
        test_accuracy: The same on the test set.
        lr: Step size of each network (networks,).
        diverged: Whether a loss was not finite (networks,).
        cost: Passes through all networks, and seconds.
    """

    loss: Tensor
    test_loss: Tensor
    accuracy: Tensor
    test_accuracy: Tensor
    lr: Tensor
    diverged: Tensor
    cost: Cost = field(default_factory=Cost)

    @property
    def final_loss(self) -> Tensor:
        """Training loss after the last step (networks,)."""
        return self.loss[-1]

    def __str__(self) -> str:
        good = self.final_loss[~self.diverged]
        ends = f", loss {good.min():.3g} to {good.max():.3g}" if good.numel() else ""
        return f"{len(self.lr)} networks, {len(self.loss) - 1} steps, {int(self.diverged.sum())} diverged{ends}"


def fit_ensemble(
    weights: Iterable[Tensor],
    inputs: Tensor,
    targets: Tensor,
    *,
    activation: ActivationLike,
    steps: int,
    lr: float | Sequence[float] | Tensor,
    test: tuple[Tensor, Tensor] | None = None,
    likelihood: Likelihood | None = None,
) -> EnsembleCurve:
    """Train copies of all networks by plain full-batch gradient descent; biases start at 0 and learn, too.

    The networks are independent: the sum of their losses is differentiated, and each takes its own step. Nothing is
    random.

    Args:
        weights: A tensor (networks, out, in) for each layer; they are not changed.
        inputs: Training inputs (N, in).
        targets: Class indices (N,) or real values (N, out).
        activation: What lies between the layers: a name, a module of ``torch.nn`` or an elementwise callable.
        steps: How many steps.
        lr: Step size, one number or one a network.
        test: Test inputs and targets.
        likelihood: ``"categorical"`` or ``"gaussian"``; default: from the targets' dtype.

    Returns:
        The losses and what they came to.

    Raises:
        ValueError: If shapes do not fit or an option is out of range.

    Example:
        >>> x = torch.linspace(-1, 1, 20).reshape(-1, 1)
        >>> curve = fit_ensemble([torch.ones(2, 1, 1)], x, 3 * x, activation="linear", steps=50, lr=[0.1, 1.0])
        >>> bool((curve.final_loss < curve.loss[0]).all())
        True
    """
    layers = [check_finite(f"weights[{i}]", check_tensor(f"weights[{i}]", w, ndim=3)) for i, w in enumerate(weights)]
    if not layers:
        raise ValueError("weights holds no layers; pass at least one.")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be a positive whole number, got {steps!r}.")
    networks, like = len(layers[0]), layers[0]
    rates = _rates(lr, networks).to(like)
    x = check_tensor("inputs", inputs, ndim=2).to(like)
    if len(targets) != len(x) or x.shape[1] != like.shape[2]:
        raise ValueError(
            f"inputs have shape {tuple(x.shape)}, targets {tuple(targets.shape)} and weights[0] {tuple(like.shape)}; "
            "give one target for each input, and as many columns of inputs as the first layer takes."
        )
    kind = likelihood if likelihood is not None else infer_likelihood(targets)
    function = tensor_function(activation)[0]
    parameters = [w.detach().clone().requires_grad_() for w in layers]
    parameters += [w.new_zeros(networks, 1, w.shape[1]).requires_grad_() for w in layers]
    y = targets.to(like.device)
    losses: list[Tensor] = []
    with stopwatch() as watch, torch.enable_grad():
        for step in range(steps):
            loss = _losses(_outputs(parameters, x, function), y, kind)
            losses.append(loss.detach())
            gradients = torch.autograd.grad(loss.sum(), parameters)
            with torch.no_grad():
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter -= rates[:, None, None] * gradient
            progress("Training the ensemble", step + 1, steps)
        train_loss, accuracy = _evaluate(parameters, x, y, function, kind)
        losses.append(train_loss)
        missing = torch.full_like(train_loss, torch.nan)
        tested = (missing, missing)
        if test is not None:
            tested = _evaluate(parameters, test[0].to(like), test[1].to(like.device), function, kind)
    curve = torch.stack(losses)
    return EnsembleCurve(
        loss=curve,
        test_loss=tested[0],
        accuracy=accuracy,
        test_accuracy=tested[1],
        lr=rates,
        diverged=~torch.isfinite(curve).all(0),
        cost=Cost(forward_passes=steps + 1, backward_passes=steps, seconds=watch.seconds),
    )


def _rates(lr: float | Sequence[float] | Tensor, networks: int) -> Tensor:
    """Settle the step sizes.

    Returns:
        One a network.

    Raises:
        ValueError: If there are neither one nor as many as networks.
    """
    values = lr.tolist() if isinstance(lr, Tensor) else lr
    rates = list(values) if isinstance(values, Sequence) else [values] * networks
    if len(rates) != networks:
        raise ValueError(f"lr holds {len(rates)} step sizes for {networks} networks; pass one number or one a network.")
    return torch.tensor([check_positive("lr", rate, zero=True) for rate in rates], dtype=torch.float64)


def _outputs(parameters: list[Tensor], x: Tensor, function: TensorFunction) -> Tensor:
    depth = len(parameters) // 2
    z = x.expand(len(parameters[0]), *x.shape)
    for layer in range(depth):
        entered = function(z) if layer else z
        z = torch.baddbmm(parameters[depth + layer], entered, parameters[layer].mT)
    return z  # (networks, N, out)


def _losses(outputs: Tensor, targets: Tensor, kind: Likelihood) -> Tensor:
    return torch.as_tensor(torch.vmap(lambda one: objective(one, targets, kind))(outputs))


@torch.no_grad()
def _evaluate(
    parameters: list[Tensor], x: Tensor, y: Tensor, function: TensorFunction, kind: Likelihood
) -> tuple[Tensor, Tensor]:
    outputs = _outputs(parameters, x, function)
    loss = _losses(outputs, y, kind)
    right = (outputs.argmax(-1) == y).to(loss.dtype).mean(-1) if kind == "categorical" else None
    return loss, torch.full_like(loss, torch.nan) if right is None else right
