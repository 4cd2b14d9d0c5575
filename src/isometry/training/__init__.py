"""The small training loop that proofs and the zoo share.

It is no trainer: no schedules, no checkpoints, no devices to choose. It answers one question, whether a network's
training loss comes down in a few hundred steps, and answers it in the same way for every network.
"""

from isometry.training._fit import Curve, fit
from isometry.training._objective import Likelihood, chance_loss, infer_likelihood, objective

__all__ = [
    # the loop and its result
    "Curve",
    "fit",
    # what it minimises, and what a network without knowledge would score
    "Likelihood",
    "chance_loss",
    "infer_likelihood",
    "objective",
]
