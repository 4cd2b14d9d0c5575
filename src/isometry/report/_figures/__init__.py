"""The figures of a report: one file for each family, content in, plotly's plain data out.

Nothing here imports plotly: a figure is a dictionary, and the page carries plotly.js itself.
"""

from __future__ import annotations

from collections.abc import Callable

from isometry.report._content import Content
from isometry.report._figures._correlation import correlation
from isometry.report._figures._fisher import fisher
from isometry.report._figures._jacobian import jacobian
from isometry.report._figures._phase import phase, phase_plot
from isometry.report._figures._plot import Figure, Plot
from isometry.report._figures._proof import proof
from isometry.report._figures._signal import signal
from isometry.report._figures._units import units

__all__ = ["EVIDENCE", "Figure", "Plot", "phase_plot", "proof"]

# The evidence, in the page's order; the proof stands with the prescription.
EVIDENCE: tuple[Callable[[Content], Plot | None], ...] = (signal, correlation, units, jacobian, fisher, phase)
