"""What ``measure.signal`` returns, and how it prints."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, field
from typing import Literal

from isometry._base import Cost, Result
from isometry.measure._moments import RangeRisk

__all__ = ["ActivationSignal", "LayerSignal", "SignalResult"]

_SHOWN = 40  # rows of a printed table


@dataclass(frozen=True)
class LayerSignal(Result):
    """The signal at the output of one layer: its pre-activations, and the loss's gradient with respect to them.

    Attributes:
        name: The module's qualified name; calls of a reused module after the first have ``#2``, ``#3``, ... behind.
        kind: What the layer is: "linear", "conv", "norm", "embedding", "recurrent", "attention", "other".
        depth: How many weight layers lie on the way up to and including this one, in the order of calls; a
            normalization has the depth of the layer before it.
        units: Units per sample (elements of the layer's output).
        q: Second moment of the output: mean square over samples and units.
        q_error: Its standard error over samples.
        correlation: Mean over pairs of inputs of the (uncentred) cosine between their outputs; NaN where undefined.
        gradient_norm: Euclidean norm of the gradient of one sample's loss with respect to its output, root mean
            square over samples. 0 where the loss does not depend on the output, or not differentiably.
        gradient_second_moment: The same per unit: mean square over samples and units.
        weight_gradient_norm: Norm of the gradient of the mean loss with respect to the layer's own parameters.
        dead: Share of the units that are dead behind the layer's rectifier; NaN if no activation follows directly.
        saturated: Share that is saturated behind its squashing activation; NaN likewise.
        constant: Share of units that are the same for every sample; NaN for one sample.
        nonfinite: Number of NaN and infinite elements of the output.
        gradient_nonfinite: The same of the gradient.
        values: What narrow number formats would lose of the output.
        gradients: What they would lose of the mean loss's gradient with respect to the output.
        weight_gradients: What they would lose of the gradient with respect to the parameters.
        activation: Name of the function that follows directly, or None.
    """

    name: str
    kind: str
    depth: int
    units: int
    q: float
    q_error: float
    correlation: float
    gradient_norm: float
    gradient_second_moment: float
    weight_gradient_norm: float
    dead: float
    saturated: float
    constant: float
    nonfinite: int
    gradient_nonfinite: int
    values: RangeRisk
    gradients: RangeRisk | None
    weight_gradients: RangeRisk | None
    activation: str | None


@dataclass(frozen=True)
class ActivationSignal(Result):
    """One call of an elementwise activation, as a module or as a function.

    Attributes:
        name: Qualified name of the module that called it, with the function's name behind it if it has others.
        function: The function's name ("relu").
        depth: How many weight layers were called before it.
        follows: Name of the layer whose output it was given directly; None behind a sum or any other operation.
        q: Second moment of its input, the pre-activation.
        correlation: Mean cosine between its inputs for pairs of samples.
        dead: Share of dead units.
        saturated: Share of saturated units.
        saturation: Share of elements with a slope below 1% of the steepest.
        nonfinite: Number of NaN and infinite elements of its input.
    """

    name: str
    function: str
    depth: int
    follows: str | None
    q: float
    correlation: float
    dead: float
    saturated: float
    saturation: float
    nonfinite: int


@dataclass(frozen=True)
class SignalResult(Result):
    """The signal through a model: what it makes of a batch, and what comes back of the loss.

    Attributes:
        layers: One row per call of a layer with weights (or of a normalization), in the order of calls.
        activations: One row per call of an elementwise activation, in the order of calls.
        samples: Size of the batch.
        input_q: Second moment of the inputs; NaN for integer inputs.
        input_correlation: Mean cosine between pairs of inputs; NaN for integer inputs.
        input_gradient_norm: Norm of the gradient with respect to one input, root mean square; NaN for integer inputs.
        probe: What was sent back: the gradient of the "cross-entropy" or "mse" loss of the targets, or, without
            targets, a "random cotangent": a direction drawn uniformly from each output's unit sphere.
        loss: The mean loss (nats for cross-entropy); NaN without targets.
        training: Whether the modules were in training mode (any of them).
        nonfinite_at: The first layer whose output held NaN or infinity, or None.
        gradient_nonfinite_at: The first layer, coming from the output, whose gradient did, or None.
        notes: What a reader should know: quantities that were not defined, modules that were seen in an odd state.
        dtype: The output's dtype.
        cost: Passes and seconds.
    """

    layers: tuple[LayerSignal, ...]
    activations: tuple[ActivationSignal, ...]
    samples: int
    input_q: float
    input_correlation: float
    input_gradient_norm: float
    probe: Literal["cross-entropy", "mse", "random cotangent"]
    loss: float
    training: bool
    nonfinite_at: str | None
    gradient_nonfinite_at: str | None
    notes: tuple[str, ...]
    dtype: str
    cost: Cost = field(default_factory=Cost)

    def __getitem__(self, name: str) -> LayerSignal:
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(f"there is no layer {name!r}; the layers are {', '.join(x.name for x in self.layers[:40])}")

    @property
    def weight_layers(self) -> tuple[LayerSignal, ...]:
        """The layers with weight matrices: one per depth, normalizations left out."""
        return tuple(layer for layer in self.layers if layer.kind != "norm")

    def __str__(self) -> str:
        from rich.console import Console  # only printing needs it

        stream = io.StringIO()
        Console(file=stream, width=160, color_system=None, emoji=False, markup=False).print(self.__rich__())
        return "\n".join(line.rstrip() for line in stream.getvalue().rstrip().splitlines())

    def __rich__(self) -> object:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        mode = "training" if self.training else "evaluation"
        caption = f"{self.samples} inputs, q = {_number(self.input_q)}; {mode} mode; gradient of the {self.probe}"
        table = Table(box=box.SIMPLE_HEAD, caption="\n".join((caption, *self.notes)), caption_justify="left")
        table.add_column("layer", overflow="fold")
        for head in ("kind", "depth", "q", "correlation", "gradient", "dead", "saturated", "non-finite"):
            table.add_column(head, justify="left" if head == "kind" else "right")
        for layer in _thinned(self.layers):
            if layer is None:
                table.add_row("...")
                continue
            numbers = (layer.q, layer.correlation, layer.gradient_norm)
            cells = (layer.name, layer.kind, str(layer.depth), *map(_number, numbers))
            bad = layer.nonfinite + layer.gradient_nonfinite
            table.add_row(*(Text(c) for c in (*cells, _share(layer.dead), _share(layer.saturated), str(bad or ""))))
        return table


def _thinned(layers: tuple[LayerSignal, ...]) -> list[LayerSignal | None]:
    """Keep the first and last rows and evenly spaced ones between, so that a deep model's table fits a screen.

    Returns:
        Layers, with None where some are left out.
    """
    if len(layers) <= _SHOWN:
        return list(layers)
    kept = sorted({round(i * (len(layers) - 1) / (_SHOWN - 1)) for i in range(_SHOWN)})
    rows: list[LayerSignal | None] = []
    for before, index in zip([-1, *kept], kept, strict=False):
        if index > before + 1 and before >= 0 and (not rows or rows[-1] is not None) and len(layers) > 4 * _SHOWN:
            rows.append(None)
        rows.append(layers[index])
    return rows


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4g}"


def _share(value: float) -> str:
    return "" if math.isnan(value) or value == 0 else f"{value:.0%}"
