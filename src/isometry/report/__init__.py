"""Figures and the HTML page, from results that are already computed.

A report is drawn from plain data (``Content``), the same that ``diagnosis.json`` holds.
"""

from __future__ import annotations

from isometry.report._content import (
    Change,
    Content,
    CostSection,
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
)
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
    # elsewhere
    "notebook_html",
    "print_findings",
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
