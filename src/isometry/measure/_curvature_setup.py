"""What a curvature measurement is about: the checked arguments, and the one place that calls the model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from isometry._base import ALONE, Team, team_for
from isometry.measure._curvature_chunks import divide, insist_on_repetition
from isometry.measure._curvature_kernels import PlainWeightNorm, plain_kernels
from isometry.measure._curvature_losses import Criterion, check_loss_targets, make_criterion
from isometry.measure._fisher_setup import choose_parameters
from isometry.measure._guards import check_model, known, open_inputs, run_model, sample_mixing
from isometry.measure._share import insist_on_same
from isometry.tape import Inputs, measuring

__all__ = ["CurvatureSetup", "make_curvature_setup"]


@dataclass(eq=False)
class CurvatureSetup:
    """Everything that products with the same matrix need.

    Attributes:
        model: The model itself, not a copy.
        x: A copy of the batch.
        y: The targets.
        criterion: The loss.
        parameters: What the matrix is over, by name; tied ones once.
        out: The outputs at the whole batch, detached.
        chunk: Samples per graph.
        graph_bytes: Foreseen bytes of one chunk's graph.
        mixing: Why the batch cannot be divided; empty where it can.
        shared: Whether processes may divide it: several measured it, and saw that its samples are independent.
    """

    model: nn.Module
    x: Inputs
    y: Any
    criterion: Criterion
    parameters: dict[str, nn.Parameter]
    out: Tensor = field(init=False)
    chunk: int = field(init=False)
    graph_bytes: int = field(init=False)
    mixing: tuple[str, ...] = field(init=False)
    shared: bool = field(init=False, default=False)
    _fingerprint: tuple[Any, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._buffers = [
            (module._buffers, name, buffer)
            for module in self.model.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]
        self._fingerprint = _fingerprint(self.model)

    @property
    def samples(self) -> int:
        """N."""
        return len(self.x)

    @property
    def size(self) -> int:
        """How many numbers the parameters hold."""
        return sum(p.numel() for p in self.parameters.values())

    @property
    def vector_dtype(self) -> torch.dtype:
        """float64 if any parameter is that, else float32."""
        wide = any(p.dtype == torch.float64 for p in self.parameters.values())
        return torch.float64 if wide else torch.float32

    @property
    def team(self) -> Team:
        """The processes that divide the batch now."""
        return team_for(self.samples) if self.shared else ALONE

    @property
    def parts(self) -> list[slice]:
        """The chunks of samples, of this process's share."""
        own = self.team.parts(self.samples)[self.team.rank]
        return [slice(i, min(i + self.chunk, own.stop)) for i in range(own.start, own.stop, self.chunk)]

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Run something on the model, which must be as it was when the measurement began.

        Yields:
            Nothing.

        Raises:
            RuntimeError: If a parameter, buffer or mode has changed since.
        """
        if _fingerprint(self.model) != self._fingerprint:
            raise RuntimeError(
                "the model's parameters, buffers or modes have changed since this curvature was measured; measure it "
                "again, or ask for everything before training goes on."
            )
        chosen = {id(p) for p in self.parameters.values()}
        with measuring(self.model, training=None), plain_kernels(self.model):
            for parameter in self.model.parameters():
                parameter.requires_grad_(id(parameter) in chosen)
            yield

    def run(self, part: slice) -> Tensor:
        """Run the model on some of the samples; the only place that calls it. For use inside ``measuring``.

        Every call finds the buffers in their first state, in copies of its own: what the forward pass writes into them
        (running statistics, say) neither adds up nor spoils an earlier graph.

        Returns:
            The outputs with their graph.
        """
        copies: dict[int, Tensor] = {}
        for table, name, buffer in self._buffers:
            table[name] = copies.setdefault(id(buffer), buffer.detach().clone())
        with PlainWeightNorm():
            return run_model(self.model, self.x[part].clone())


def make_curvature_setup(
    model: object, x: object, y: object, *, loss: object, params: str | Iterable[str], budget: int | None
) -> CurvatureSetup:
    """Check every argument, run the model once over the batch and divide the batch.

    Returns:
        The setup.

    Raises:
        ValueError: If the model, the batch or the targets cannot be measured; the message says why.
    """
    module = check_model(model)
    criterion = make_criterion(loss)
    batch = open_inputs(module, x).clone()
    if not any(p.numel() for p in module.parameters()):
        raise ValueError("model has no parameters, so its loss has no curvature in them; pass a model that has some.")
    insist_on_same(module, batch, y)
    parameters = choose_parameters(module, params)
    chance = [m for m in sample_mixing(module) if "random" in m.why]
    if chance:
        shown = ", ".join(f"{m.name or 'the model'!r} ({m.kind}) {m.why}" for m in chance[:3])
        raise ValueError(
            f"the loss's curvature is undefined here: {shown}. Call .eval() on it (batch normalization may stay in "
            "training mode: its batch's statistics are differentiated)."
        )
    setup = CurvatureSetup(module, batch, y, criterion, parameters)
    with setup.measuring():
        insist_on_repetition(setup.run, setup.samples, bool(sample_mixing(module)), batch.device)
        team = team_for(setup.samples)
        most = team.shares(setup.samples)[0]
        division = divide(setup.run, module, list(parameters.values()), setup.samples, most, budget)
        setup.mixing, setup.chunk, setup.graph_bytes = division
        setup.shared = team.size > 1 and not setup.mixing
        with torch.no_grad():
            own = torch.cat([setup.run(part) for part in setup.parts])
            setup.out = setup.team.gather(own, setup.samples, "the outputs")
    bad = ~torch.isfinite(setup.out).reshape(setup.samples, -1).all(1)
    if setup.out.numel() == 0 or bool(bad.any()):
        raise ValueError(
            f"the model's output is empty or not finite (NaN or infinity) for {int(bad.sum())} of {setup.samples} "
            "samples, though the batch is finite: measure.signal says where it overflows."
        )
    setup.y = check_loss_targets(criterion, y, setup.out, batch)
    return setup


def _fingerprint(model: nn.Module) -> tuple[Any, ...]:
    tensors = [*model.parameters(), *model.buffers()]
    with torch.no_grad():
        norms = [torch.linalg.vector_norm(p.detach().float()) for p in model.parameters() if p.is_floating_point()]
        values = torch.stack([n.cpu() for n in norms]).tolist() if norms else []
    return (
        tuple((id(t), -1 if t.is_inference() else t._version) for t in tensors),
        tuple(map(known, values)),
        tuple(module.training for module in model.modules()),
    )
