"""The small training loop that proofs and the zoo share, and ensembles of small networks.

The loop is no trainer: no schedules, no checkpoints, no devices to choose. It answers one question, whether a network's
training loss comes down in a few hundred steps, and answers it in the same way for every network. ``Probe`` follows
measurements in anybody's own training, and its callbacks do so in the trainers of Lightning and transformers.
``compare`` trains the grid of an experiment file, in a way that survives being killed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from isometry.training._ensemble import Ensemble, ensemble
from isometry.training._ensemble_fit import EnsembleCurve, fit_ensemble
from isometry.training._fit import Curve, fit
from isometry.training._objective import Likelihood, chance_loss, infer_likelihood, objective
from isometry.training._probe import Probe
from isometry.training._probe_log import ProbeLog, read_probe
from isometry.training._probe_record import Gap
from isometry.training._threads import suitable_threads

if TYPE_CHECKING:
    from isometry.training import compare
    from isometry.training._hf import ProbeTrainerCallback
    from isometry.training._lightning import ProbeCallback

__all__ = [
    # the loop and its result
    "Curve",
    "fit",
    # ensembles of small networks: drawn as stacks of weights, trained all at once
    "Ensemble",
    "EnsembleCurve",
    "ensemble",
    "fit_ensemble",
    # measurements followed during a training, and their file
    "Probe",
    "ProbeLog",
    "Gap",
    "read_probe",
    "ProbeCallback",
    "ProbeTrainerCallback",
    # whole experiments: a grid, trained and compared
    "compare",
    # what it minimises, and what a network without knowledge would score
    "Likelihood",
    "chance_loss",
    "infer_likelihood",
    "objective",
    # how many threads small networks deserve
    "suitable_threads",
]

_CALLBACKS = {"ProbeCallback": "isometry.training._lightning", "ProbeTrainerCallback": "isometry.training._hf"}


def __getattr__(name: str) -> Any:
    if name in _CALLBACKS:  # these import a trainer's library, which takes seconds and may not be there
        return getattr(importlib.import_module(_CALLBACKS[name]), name)
    if name == "compare":
        return importlib.import_module("isometry.training.compare")
    raise AttributeError(f"module 'isometry.training' has no attribute {name!r}")
