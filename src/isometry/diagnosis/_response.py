"""How a network answers to its inputs and to one small training step: what tells the rules whether it can learn.

Two quantities decide, and neither needs to know the architecture.

1. *Distinguishability* D: the share of a layer's second moment that varies over the inputs, 1 - c for mean-field
   networks. Where theory says that nets are trainable to a depth of 6 xi_c, it says D / D_0 > exp(-6). Below the
   rounding noise of the arithmetic, eps^2 times the number of products summed on the way (a random walk of rounding
   errors), the network is a constant function with noise on top.
2. *Unruliness of the smallest sensible step*: with outputs f(t) after a step t along Adam's first update,
   |f(t) - 2 f(0) + f(-t)| / (2 |f(0)|), inputs' mean removed: what curvature alone does to the outputs, over what the
   inputs do to them. The gradient can vouch for a step only if this is << 1; three unrelated functions of equal spread
   have sqrt(6)/2 = 1.22. Above 1 at Adam's step size of 1e-4, below which a few hundred steps lead nowhere, no sensible
   step follows the gradient.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from isometry._base import Cost, Result, preserved_rng, stopwatch
from isometry.diagnosis._case import Case
from isometry.diagnosis._nodes import counted_rows
from isometry.tape import Call, Inputs, record
from isometry.training import objective

__all__ = ["SMALL_STEP", "USUAL_STEP", "LayerInput", "ParameterGradient", "Response", "measure_response"]

SMALL_STEP = 1e-4  # Adam's step size below which a few hundred steps lead nowhere
USUAL_STEP = 1e-3  # and the one that people start from
ADAM_EPS = 1e-8


@dataclass(frozen=True)
class LayerInput(Result):
    """What one call of a weight layer is given.

    Attributes:
        name: The layer.
        q: Second moment of its input.
        distinguishability: Share of it that varies over the samples; NaN if the input is zero.
        fan_in: Products that one of its outputs sums.
        rank_ratio: Second over first singular value of the centred inputs; only for the last layer, else NaN.
    """

    name: str
    q: float
    distinguishability: float
    fan_in: int
    rank_ratio: float = math.nan


@dataclass(frozen=True)
class ParameterGradient(Result):
    """The loss's gradient with respect to one parameter that is to be trained.

    Attributes:
        name: The parameter.
        matrix: Whether it is a weight (at least two axes) rather than a bias or a scale.
        rms: Root mean square of the gradient's entries; NaN if not finite.
        reached: False if no differentiable path leads from the loss to it.
        weight_rms: Root mean square of the parameter itself.
    """

    name: str
    matrix: bool
    rms: float
    reached: bool
    weight_rms: float


@dataclass(frozen=True)
class Response(Result):
    """How a network answers to its inputs and to one small step.

    Attributes:
        inputs: What each weight layer is given, in the order of calls.
        after: What the last weight layer is given after one step of Adam at the usual step size.
        gradients: Gradient of every parameter that is to be trained.
        output_q: Second moment of the outputs.
        output_distinguishability: Share of it that varies over the samples.
        output_range: Smallest and largest output.
        output_function: Name of the function that made the outputs, as autograd calls it.
        rows_sum_to_one: Every row of outputs is a probability vector.
        loss: Mean loss; NaN without targets.
        curvature: Even over odd part of the change by the smallest sensible step; NaN if it moves nothing.
        jump: Change of the outputs by that step, over their spread over the inputs.
        loss_change: Relative change of the loss after that step.
        noise: Square of the rounding noise at the last layer, relative to its second moment.
        cost: Passes and seconds.
    """

    inputs: tuple[LayerInput, ...]
    after: LayerInput | None
    gradients: tuple[ParameterGradient, ...]
    output_q: float
    output_distinguishability: float
    output_range: tuple[float, float]
    output_function: str
    rows_sum_to_one: bool
    loss: float
    curvature: float
    jump: float
    loss_change: float
    noise: float
    cost: Cost = field(default_factory=Cost)

    @property
    def terminal(self) -> float:
        """Distinguishability where the last weight layer reads; of the outputs if there is no such layer."""
        return self.inputs[-1].distinguishability if self.inputs else self.output_distinguishability

    @property
    def unruliness(self) -> float:
        """Even part of the change by the smallest sensible step, over the outputs' spread over the inputs."""
        return self.curvature * self.jump

    @property
    def strongest(self) -> float:
        """The largest gradient among the weights, root mean square per entry; 0 without any."""
        values = [g.rms for g in self.gradients if g.matrix and g.reached]
        return math.nan if any(math.isnan(v) for v in values) else max(values, default=0.0)


def measure_response(case: Case) -> Response:
    """Measure the response in two forward-backward passes' worth of work and four forward passes.

    The step is taken on a copy of the model. Without targets, the loss is that of labels drawn at random, which sends
    back the same kind of gradient.

    Args:
        case: The model and its batch.

    Returns:
        The response.
    """
    with stopwatch() as watch:
        model = _as_trained(case.model)
        targets = case.y if case.y is not None else _random_targets(case)
        trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        inputs, outputs = _forward(model, case.x, grad=True)
        loss = _loss(case, outputs, targets)
        grads: Sequence[Tensor | None] = [None] * len(trained)
        if loss.requires_grad and trained:
            grads = torch.autograd.grad(loss, [p for _, p in trained], allow_unused=True)
        function = "" if outputs.grad_fn is None else outputs.grad_fn.name()
        base = outputs.detach().double()
        step = [(p, _adam_direction(g)) for (_, p), g in zip(trained, grads, strict=True) if g is not None]
        forth, back = _moved(model, case.x, step, SMALL_STEP)[1], _moved(model, case.x, step, -SMALL_STEP)[1]
        after = _moved(model, case.x, step, USUAL_STEP)[0]
        kappa, jump = _curvature(base, forth.double(), back.double())
        stepped = float(_loss(case, forth, targets))
    rows = base.sum(-1)
    return Response(
        inputs=tuple(inputs),
        after=after[-1] if after else None,
        gradients=tuple(_gradient(n, p, g) for (n, p), g in zip(trained, grads, strict=True)),
        output_q=float(base.square().mean()),
        output_distinguishability=_distinguishability(base)[1],
        output_range=(float(base.min()), float(base.max())),
        output_function=function,
        rows_sum_to_one=bool((base >= 0).all()) and bool(((rows - 1).abs() < 1e-3).all()) and base.shape[-1] > 1,
        loss=float(loss.detach()) if case.y is not None else math.nan,
        curvature=kappa,
        jump=jump,
        loss_change=(stepped - float(loss.detach())) / max(abs(float(loss.detach())), 1e-300),
        noise=_noise(inputs, base.dtype if case.x.leaf is None else case.x.leaf.dtype, model),
        cost=Cost(forward_passes=4, backward_passes=1, seconds=watch.seconds),
    )


def _as_trained(model: nn.Module) -> nn.Module:
    """Copy a model into the state in which a training step sees it, but without chance.

    Returns:
        A copy in evaluation mode, except that batch normalization uses the batch's statistics.
    """
    copied = copy.deepcopy(model).eval()
    for module in copied.modules():
        if isinstance(module, _BatchNorm):
            module.train()
    return copied


def _loss(case: Case, outputs: Tensor, targets: Tensor) -> Tensor:
    return objective(counted_rows(case.x, outputs), counted_rows(case.x, targets), case.likelihood)


def _random_targets(case: Case) -> Tensor:
    generator = torch.Generator().manual_seed(case.seed)
    if case.likelihood == "categorical":
        return torch.randint(case.outputs, case.shape[:-1], generator=generator).to(case.x.device)
    return torch.randn(case.shape, generator=generator).to(case.x.device)


def _forward(model: nn.Module, x: Inputs, *, grad: bool) -> tuple[list[LayerInput], Tensor]:
    seen: list[LayerInput] = []
    last: list[Tensor] = []

    def on_call(call: Call) -> None:
        if not call.inputs or not call.input.is_floating_point() or len(call.input) != len(x):
            return
        given = call.input.detach()
        seen.append(LayerInput(call.name, *_distinguishability(given), fan_in=_products(call.module, given)))
        last[:] = [given]

    with torch.set_grad_enabled(grad), record(model, _has_matrix, on_call=on_call, keep=False), preserved_rng():
        torch.manual_seed(0)  # a model that draws numbers draws the same ones in every pass, so steps alone differ
        outputs = x.run(model)
    if seen:
        end = seen[-1]
        seen[-1] = LayerInput(end.name, end.q, end.distinguishability, end.fan_in, _rank_ratio(last[0]))
    return seen, outputs


def _moved(
    model: nn.Module, x: Inputs, step: list[tuple[nn.Parameter, Tensor]], size: float
) -> tuple[list[LayerInput], Tensor]:
    kept = [p.detach().clone() for p, _ in step]
    with torch.no_grad():
        for p, direction in step:
            p.sub_(size * direction)
        result = _forward(model, x, grad=False)
        for (p, _), before in zip(step, kept, strict=True):
            p.copy_(before)
    return result


def _adam_direction(gradient: Tensor) -> Tensor:
    return gradient / (gradient.abs() + ADAM_EPS)  # Adam's first update, bias corrections included


def _curvature(base: Tensor, forth: Tensor, back: Tensor) -> tuple[float, float]:
    def centred(t: Tensor) -> Tensor:
        return t - t.mean(0)

    odd, even = float(centred(forth - back).norm()), float(centred(forth + back - 2 * base).norm())
    spread = float(centred(base).norm())
    if not (math.isfinite(odd) and math.isfinite(even)) or odd == 0:
        return math.nan, math.nan
    return even / odd, 0.5 * odd / spread if spread else math.inf


def _distinguishability(values: Tensor) -> tuple[float, float]:
    flat = values.detach().double().reshape(len(values), -1)
    q = float(flat.square().mean())
    if not math.isfinite(q) or q == 0:
        return q, math.nan
    return q, float((flat - flat.mean(0)).square().mean()) / q


def _rank_ratio(values: Tensor) -> float:
    # Of a sequence each position is a row of features; of an image, whose channels come first, the whole sample is.
    rows = values.double().reshape(-1, values.shape[-1]) if values.ndim == 3 else values.double().flatten(1)
    centred = rows - rows.mean(0)
    if len(centred) < 3 or centred.shape[1] < 2 or not bool(torch.isfinite(centred).all()):
        return math.nan  # two rows have one direction between them, whatever they are
    spectrum = torch.linalg.svdvals(centred)
    return float(spectrum[1] / spectrum[0]) if float(spectrum[0]) > 0 else math.nan


def _gradient(name: str, parameter: nn.Parameter, gradient: Tensor | None) -> ParameterGradient:
    own = float(parameter.detach().double().square().mean().sqrt())
    if gradient is None:
        return ParameterGradient(name, parameter.ndim > 1, 0.0, False, own)
    rms = float(gradient.double().square().mean().sqrt())
    return ParameterGradient(name, parameter.ndim > 1, rms if math.isfinite(rms) else math.nan, True, own)


def _noise(inputs: list[LayerInput], dtype: torch.dtype, model: nn.Module) -> float:
    narrowest = max((torch.finfo(p.dtype).eps for p in model.parameters() if p.is_floating_point()), default=0.0)
    eps = max(narrowest, torch.finfo(dtype).eps)
    return eps**2 * sum(layer.fan_in for layer in inputs)


def _has_matrix(_name: str, module: nn.Module) -> bool:
    whole = isinstance(module, nn.MultiheadAttention) or next(module.children(), None) is None
    return whole and any(p.ndim > 1 for p in module.parameters(recurse=False))


def _products(module: nn.Module, given: Tensor) -> int:
    """Count the products that one output sums: the fan-in, once for each step of a recurrent layer.

    Returns:
        The number.
    """
    sizes = [p[0].numel() for p in module.parameters(recurse=False) if p.ndim > 1]
    if isinstance(module, nn.RNNBase) and given.ndim == 3:
        return sum(sizes) * given.shape[1 if module.batch_first else 0]
    return max(sizes, default=1)
