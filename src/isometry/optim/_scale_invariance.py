"""Weights whose length does not matter, since a normalization follows: steps along the sphere, and the effective rate.

References:
    B. Heo, S. Chun, S. J. Oh, D. Han, S. Yun, G. Kim, Y. Uh, J.-W. Ha, AdamP: slowing down the slowdown for momentum
    optimizers on scale-invariant weights, ICLR 2021. arXiv:2006.08217, and its released code, github.com/clovaai/AdamP
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from isometry._base import unknown_name
from isometry.linalg._precision import working_dtype
from isometry.optim._base import Optimizer, ParameterSource, check_choice, check_number, check_switch
from isometry.optim._rule import Member, Options, Shaped, State
from isometry.optim._shards import Shards, shards_of

__all__ = [
    "Projecting",
    "ProjectingRule",
    "ScaleInvariant",
    "effective_lr",
    "projection_report",
    "tangential",
]

Mode = Literal["auto", "always", "never"]
ScaleInvariant = Literal["auto"] | Iterable[Tensor | str]
VIEWS = ("none", "channel", "layer")


def tangential(
    direction: Tensor,
    gradient: Tensor,
    value: Tensor,
    *,
    delta: float = 0.1,
    eps: float = 1e-8,
    mode: Mode = "auto",
    shards: Shards | None = None,
) -> tuple[Tensor, Tensor]:
    """Take the radial part out of steps, where the weight is scale-invariant by the look of its gradient.

    A scale-invariant w has w . g = 0. Two views are tried, the rows (dimension 0 of a weight: its output channels,
    d entries each) and the layer as one row; the first passes in which |cos(g, w)| < delta / d^(1/2) for all rows.
    Then p <- p - u (u . p) in each row, u = w / (|w| + eps). The absolute value is the released code's; the formula in
    the paper lacks it.

    Args:
        direction: Steps p of shape ``(count, rows, ...)``, one per weight.
        gradient: Gradients g of the same shape.
        value: Weights w of the same shape.
        delta: Threshold; 0 projects nothing.
        eps: Added to norms. Gradients that are tiny beside it pass, as do zero rows and zero gradients.
        mode: ``"auto"``, or ``"always"`` (the rows are projected, whatever the gradient) or ``"never"``.
        shards: How rows are spread over processes, None if every process has them all.

    Returns:
        The steps, and for each weight 0 (not projected), 1 (its rows were) or 2 (the layer was), int8.

    Example:
        >>> w, g, p = torch.tensor([[[2.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]]), torch.tensor([[[3.0, 4.0]]])
        >>> tangential(p, g, w)[0]
        tensor([[[0., 4.]]])
    """
    if value.ndim < 3 or mode == "never":
        return direction, torch.zeros(len(value), dtype=torch.int8, device=value.device)
    g, w, p = (t.flatten(2) if t.ndim > 3 else t for t in (gradient, value, direction))
    dots = torch.stack([(g * g).sum(-1), (w * w).sum(-1), (g * w).sum(-1), (w * p).sum(-1)])  # (4, count, rows)
    whole = dots.sum(-1) if shards is None else shards.total(dots.sum(-1))
    by_row = _radial(dots, eps)
    width, rows = w.shape[-1], w.shape[1] if shards is None else shards.rows
    if mode == "always":
        channel = torch.ones(len(value), dtype=torch.bool, device=value.device)
        layer = ~channel
    else:
        worst = torch.nn.functional.pad(_cosine(dots, eps), (0, 1)).amax(-1)  # of no rows: 0
        worst = worst if shards is None else shards.maximum(worst)
        channel = worst < delta / max(1, width) ** 0.5
        layer = ~channel & (_cosine(whole, eps) < delta / max(1, width * rows) ** 0.5)
    amount = torch.where(channel[:, None], by_row, torch.where(layer, _radial(whole, eps), 0.0)[:, None])
    amount = torch.where((channel | layer)[:, None], amount, 0.0)
    taken = channel.to(torch.int8) + 2 * layer.to(torch.int8)
    return (p - w * amount[..., None]).reshape(direction.shape), taken


def _cosine(dots: Tensor, eps: float) -> Tensor:
    gg, ww, gw, _ = dots
    cosine: Tensor = gw.abs() / (gg.sqrt() + eps) / (ww.sqrt() + eps)
    return cosine


def _radial(dots: Tensor, eps: float) -> Tensor:
    _, ww, _, wp = dots
    amount: Tensor = wp / (ww.sqrt() + eps).square()
    return amount


def effective_lr(weight: Tensor, lr: float, *, per: Literal["channel", "layer"] = "channel") -> Tensor:
    """Give the rate at which the direction of a scale-invariant weight moves: lr / |w|^2.

    A step lr p turns w / |w| as a step of this rate turns the same weight at length 1, whose gradient is |w| times
    as long. It is the rate for steps in proportion to the gradient (SGD); Adam's do not depend on its length, and turn
    w by lr / |w|.

    Args:
        weight: Of at least one dimension.
        lr: The learning rate.
        per: A rate for each output channel (dimension 0), or one for the layer.

    Returns:
        Shape ``(channels,)`` or ``()``; infinite for weights of length zero.

    Example:
        >>> effective_lr(torch.tensor([[3.0, 4.0], [1.0, 0.0]]), 0.5)
        tensor([0.0200, 0.5000])
    """
    check_choice("per", per, ("channel", "layer"))
    check_number("lr", lr)
    w = weight.detach().to(working_dtype(weight.dtype))
    return lr / (w.flatten(1).square().sum(1) if per == "channel" and w.ndim > 1 else w.square().sum())


def projection_report(optimizer: torch.optim.Optimizer) -> dict[str, str]:
    """Tell what ``AdamP`` or ``SGDP`` did with each weight at its last step.

    Args:
        optimizer: The optimizer.

    Returns:
        ``"channel"``, ``"layer"`` or ``"none"`` for each parameter that has been stepped, by its name (if the
        parameters were given with names) or as ``"group.position"``.

    Raises:
        TypeError: If it is another optimizer.
    """
    if not isinstance(optimizer, Projecting):
        raise TypeError(f"optimizer must be AdamP or SGDP, got {type(optimizer).__name__}, which projects no steps.")
    told = {}
    for index, group in enumerate(optimizer.param_groups):
        names = group.get("param_names") or [f"{index}.{position}" for position in range(len(group["params"]))]
        for name, parameter in zip(names, group["params"], strict=True):
            if "projection" in optimizer.state[parameter]:
                told[name] = VIEWS[int(optimizer.state[parameter]["projection"])]
    return told


class Projecting(Optimizer):
    """What ``AdamP`` and ``SGDP`` share: their options, and the list of weights that are to be projected."""

    def __init__(self, params: ParameterSource, defaults: dict[str, Any]) -> None:
        self._unseen = _listed(defaults["scale_invariant"])
        super().__init__(params, defaults)
        left = [item for item in self._unseen if isinstance(item, str)]
        if left:
            known = [name for group in self.param_groups for name in group.get("param_names", ())]
            raise unknown_name("parameter in scale_invariant", left[0], known)
        if self._unseen:
            shape = tuple(self._unseen[0].shape)  # type: ignore[union-attr]
            raise ValueError(f"scale_invariant has a tensor of shape {shape} that is in no group; pass the parameters.")

    def _check_options(self, options: dict[str, Any]) -> None:
        for name in ("lr", "eps", "weight_decay", "delta", "wd_ratio"):
            check_number(name, options[name])
        check_switch("nesterov", options["nesterov"])
        check_switch("maximize", options["maximize"])

    def _check_parameters(self, index: int) -> None:
        """Write into the group, for each parameter, whether it is projected: plain data, which is saved."""
        group = self.param_groups[index]
        given = _listed(group["scale_invariant"])
        if group["scale_invariant"] == "auto":
            group["scale_invariant"] = ["auto"] * len(group["params"])
            return
        if given and all(item in get_args(Mode) for item in given if isinstance(item, str)) and _words(given):
            return  # as a group of another optimizer had it
        modes = []
        for position, parameter in enumerate(group["params"]):
            name = group["param_names"][position] if "param_names" in group else None
            hits = [item for item in given if item is parameter or (isinstance(item, str) and item == name)]
            modes.append("always" if hits else "never")
            self._unseen = [item for item in self._unseen if not any(item is hit for hit in hits)]
        group["scale_invariant"] = modes

    def _mode(self, parameter: Tensor, options: dict[str, Any]) -> Mode:
        position = next(i for i, p in enumerate(options["params"]) if p is parameter)
        mode: Mode = options["scale_invariant"][position]
        return mode

    def _form(self, options: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(options["scale_invariant"])


def _listed(given: object) -> list[Tensor | str]:
    if given == "auto":
        return []
    if isinstance(given, str | Tensor) or not isinstance(given, Iterable):
        raise TypeError(f"scale_invariant must be 'auto' or a list of parameters or of their names, got {given!r}.")
    items = list(given)
    for item in items:
        if not isinstance(item, str | Tensor):
            raise TypeError(f"scale_invariant must hold parameters or their names, got {item!r} in it.")
    return items


def _words(given: Sequence[Tensor | str]) -> bool:
    return all(isinstance(item, str) for item in given)


@dataclass(frozen=True)
class ProjectingRule(Shaped):
    """A rule that takes the radial part out of its steps.

    Attributes:
        mode: Whether the weight is projected.
    """

    cached = 1
    moments: ClassVar[tuple[str, ...]] = ()

    mode: Mode

    def names(self) -> tuple[str, ...]:
        return (*self.moments, "projection")

    def shaped(self, name: str) -> bool:
        return name != "projection"

    def begin(self, value: Tensor, members: int) -> State:
        taken = torch.zeros(members, dtype=torch.int8, device=value.device)
        return {**{name: torch.zeros_like(value) for name in self.moments}, "projection": taken}

    def context(self, members: Sequence[Member], value: Tensor) -> dict[str, Any]:
        del value
        return {"shards": shards_of([m.parameter for m in members], [m.name for m in members])}

    def _projected(
        self, direction: Tensor, gradient: Tensor, value: Tensor, options: Options, context: State
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Project steps.

        Returns:
            The steps; what was done; by what the weight decay of each weight is multiplied, of shape (count, 1, ...).
        """
        shards: Any = context["shards"]
        step, taken = tangential(
            direction, gradient, value, delta=options["delta"], eps=options["eps"], mode=self.mode, shards=shards
        )
        ratio = value.new_ones(len(value)).masked_fill(taken > 0, options["wd_ratio"])
        return step, taken, ratio.reshape(-1, *(1,) * (value.ndim - 1))
