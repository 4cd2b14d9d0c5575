"""Figures and the HTML page, from results that are already computed.

A report is drawn from plain data (``Content``), the same that ``diagnosis.json`` holds.
"""

from __future__ import annotations

from isometry.report._comparison import render_comparison
from isometry.report._content import (
    Change,
    Content,
    CostSection,
    CoverageSection,
    CriticalLine,
    FindingItem,
    FisherSection,
    HiddenFisher,
    JacobianSection,
    LawCurve,
    LayerItem,
    PhasePoint,
    PhaseSection,
    PrescriptionSection,
    ProofSection,
    SignalSection,
    SkippedItem,
    Subject,
    TrainingRun,
    UncoveredItem,
)
from isometry.report._coverage import coverage_sentence
from isometry.report._notebook import notebook_html
from isometry.report._page import render, render_phase_diagram
from isometry.report._terminal import print_findings
from isometry.report._tidy import tidy
from isometry.report._timeline import render_timeline
from isometry.report._write import write, write_text

__all__ = [
    # the page
    "render",
    "write",
    "render_phase_diagram",
    "render_timeline",
    "render_comparison",
    # elsewhere
    "notebook_html",
    "print_findings",
    "coverage_sentence",
    # files that are there whole or not at all
    "write_text",
    # what a report is drawn from
    "Content",
    "tidy",
    "Subject",
    "FindingItem",
    "SignalSection",
    "LayerItem",
    "JacobianSection",
    "LawCurve",
    "FisherSection",
    "HiddenFisher",
    "CoverageSection",
    "UncoveredItem",
    "PhaseSection",
    "PhasePoint",
    "CriticalLine",
    "PrescriptionSection",
    "Change",
    "ProofSection",
    "TrainingRun",
    "SkippedItem",
    "CostSection",
]
