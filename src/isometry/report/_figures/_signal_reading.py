"""What to see in the signal by depth, in words."""

from __future__ import annotations

import math

from isometry.report._content import LayerItem, Number, SignalSection
from isometry.report._figures._plot import finite
from isometry.report._wording import count, joined, number

__all__ = ["reading"]

FLAT = 0.5  # powers of ten between both ends that still count as the same
WILD = 1.5  # powers of ten between extremes that no longer count as flat


def reading(section: SignalSection, layers: list[LayerItem]) -> str:
    """Say how signal and gradient travel, what is broken on the way, and how far theory lets them.

    Args:
        section: The signal.
        layers: Its layers by depth.

    Returns:
        A few sentences of plain text.
    """
    lined = [layer for layer in layers if layer["kind"] != "norm"] or layers
    forward, backward = [layer["q"] for layer in lined], [layer["gradient_norm"] for layer in lined][::-1]
    sentences = [
        _travel("The signal's second moment", forward, "from the first layer to the last"),
        _travel("The gradient's norm", backward, "from the last layer to the first"),
        _broken(layers),
    ]
    if section["xi_c"] is not None and section["xi_c"] > 0:
        reach = number(6 * section["xi_c"], 2)
        sentences.append(f"In theory the signal's geometry survives a depth of about 6 ξ_c = {reach} layers.")
    units = [value for layer in layers for value in (layer["dead"], layer["saturated"]) if value is not None]
    if units and not any(units):
        sentences.append("No unit is dead or saturated.")
    sentences.append("Healthy is a flat line; a straight slope is exponential decay or growth.")
    return " ".join(sentence for sentence in sentences if sentence)


def _travel(what: str, values: list[Number], way: str) -> str:
    drawn = finite(values, positive=True)
    if len(drawn) < 2:
        return ""
    first, last = drawn[0], drawn[-1]
    decades = math.log10(last / first)
    if abs(decades) < FLAT:
        if math.log10(max(drawn) / min(drawn)) > WILD:
            return f"{what} jumps between {number(min(drawn), 2)} and {number(max(drawn), 2)} {way}."
        return f"{what} stays near {number(first, 2)} {way}."
    verb = "falls" if decades < 0 else "grows"
    ends = f"from {number(first, 2)} to {number(last, 2)}"
    return f"{what} {verb} {ends} {way}, by {number(abs(decades), 2)} powers of ten."


def _broken(layers: list[LayerItem]) -> str:
    amounts = (
        ("no signal at all", sum(1 for layer in layers if layer["q"] == 0)),
        ("no gradient at all", sum(1 for layer in layers if layer["gradient_norm"] == 0)),
        ("NaN or infinity", sum(1 for layer in layers if layer["nonfinite"])),
    )
    found = [(what, n) for what, n in amounts if n]
    if not found:
        return ""
    listed = joined([f"{count(n, 'layer')} with {what}" for what, n in found])
    return f"There {'is' if found[0][1] == 1 else 'are'} {listed}."
