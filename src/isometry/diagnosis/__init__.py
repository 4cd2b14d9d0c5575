"""Findings, prescriptions and proof: rules over measurements and predictions.

``diagnose`` measures a model, lets the rules of `isometry.diagnosis.rules` look at what was measured and predicted,
prescribes an initialization, and proves it by training where asked.
"""

from isometry.diagnosis._chain import Chain, ChainLayer
from isometry.diagnosis._diagnose import diagnose, prescribe
from isometry.diagnosis._diagnosis import Diagnosis
from isometry.diagnosis._evidence import Evidence, Skipped
from isometry.diagnosis._finding import Finding, Severity
from isometry.diagnosis._hidden import HiddenFisher
from isometry.diagnosis._prediction import Prediction
from isometry.diagnosis._prescription import Change, Prescription
from isometry.diagnosis._proof import Proof
from isometry.diagnosis._response import Response
from isometry.diagnosis.rules import CODES

__all__ = [
    # the main job
    "diagnose",
    "Diagnosis",
    # what is found
    "Finding",
    "Severity",
    "CODES",
    # what to do, and whether it helps
    "prescribe",
    "Prescription",
    "Change",
    "Proof",
    # what the rules look at
    "Evidence",
    "HiddenFisher",
    "Response",
    "Chain",
    "ChainLayer",
    "Prediction",
    "Skipped",
]
