"""Where neural-network weights start and how they move.

Rooms, from the ground up; each loads on first use, so ``import isometry`` stays fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from isometry._version import __version__

if TYPE_CHECKING:
    from isometry import (
        data,
        diagnosis,
        init,
        linalg,
        manifolds,
        measure,
        nn,
        optim,
        papers,
        report,
        roles,
        tape,
        theory,
        training,
    )
    from isometry.diagnosis import diagnose, prescribe
    from isometry.tape import Inputs

__all__ = [
    "__version__",
    # the main job
    "diagnose",
    "prescribe",
    # what models are called with, where it is more than one tensor
    "Inputs",
    # what lies underneath, from the ground up
    "linalg",
    "roles",
    "tape",
    "theory",
    "nn",
    "data",
    "init",
    "measure",
    "manifolds",
    "optim",
    "training",
    "report",
    "diagnosis",
    "papers",
]

_FUNCTIONS = {"diagnose": "isometry.diagnosis", "prescribe": "isometry.diagnosis", "Inputs": "isometry.tape"}


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(_FUNCTIONS[name]), name)
    if name in __all__:
        return importlib.import_module(f"isometry.{name}")
    raise AttributeError(f"module 'isometry' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
