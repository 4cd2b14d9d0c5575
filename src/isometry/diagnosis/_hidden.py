"""The Fisher information of the hidden layers alone, with the mean-field bound that is about it.

Paper: P. A. Sokol, I. M. Park. "Information Geometry of Orthogonal Initializations and Training." ICLR 2020.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from torch import nn

from isometry import measure
from isometry._base import Result
from isometry.diagnosis._case import Case
from isometry.diagnosis._chain import Chain, elementwise
from isometry.tape import Inputs

__all__ = ["HiddenFisher", "measure_hidden"]


@dataclass(frozen=True)
class HiddenFisher(Result):
    """The Fisher matrix of the hidden layers' parameters alone, which the mean-field theorem is about.

    Attributes:
        lambda_max: Its largest eigenvalue.
        theorem: The theorem's upper bound. It is about the average network and takes the first layer's block for the
            largest, so that a single network can exceed it.
    """

    lambda_max: float
    theorem: float

    @property
    def holds(self) -> bool:
        """Whether this network stays below the bound."""
        return self.lambda_max <= self.theorem


def measure_hidden(case: Case, chain: Chain, x: Inputs, budget: int | None) -> HiddenFisher:
    """Measure the largest eigenvalue and the theorem's bound on it.

    Args:
        case: The case.
        chain: What theory sees in its model.
        x: The inputs that the whole spectrum was measured on.
        budget: Bytes that the dual may take; None for the library's default.

    Returns:
        Both numbers.
    """
    like = chain.activation_like
    phi = None if isinstance(like, nn.Module) else elementwise(like)
    fisher = functools.partial(
        measure.fisher, case.model, x, likelihood=case.likelihood, params="hidden", budget=budget
    )
    theorem = float(fisher(dense=False).bound("theorem", activation=phi))  # it refuses before the spectrum's work
    return HiddenFisher(lambda_max=fisher().lambda_max, theorem=theorem)
