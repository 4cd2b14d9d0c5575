"""How deep linear networks learn: exact curves of their modes, learning times, step sizes, and the data to see it on.

A network y = W_L ... W_1 x descends (1/2) SUM |y - W x|^2 over all samples, W_l <- W_l - lr grad: with tau = 1 / lr,
time counts full-batch steps. With white inputs, SUM x x^T = I, and an initial condition that lies along the singular
vectors of the correlation SUM y x^T = U S V^T, every mode learns by itself: its strength u, the product of its L
layers' factors, obeys

    tau du/dt = L u^(2 - 2/L) (s - u)

if the layers share it equally. Sums, not means: with mean losses all correlations are divided by the number of samples.
Curves and times are numpy arrays, networks and data are tensors; all in float64.

References:
    A. M. Saxe, J. L. McClelland, S. Ganguli (2014), Exact solutions to the nonlinear dynamics of learning in deep
    linear neural networks. https://arxiv.org/abs/1312.6120
"""

from isometry.theory.linear_dynamics._curves import mode_curve, two_layer_curve
from isometry.theory.linear_dynamics._hierarchy import Hierarchy, hierarchical_data, hierarchical_spectrum
from isometry.theory.linear_dynamics._modes import (
    Consistency,
    Modes,
    decompose,
    pretraining_consistency,
)
from isometry.theory.linear_dynamics._networks import balancedness, decoupled_weights, mode_strengths
from isometry.theory.linear_dynamics._rates import StepSizes, optimal_rate
from isometry.theory.linear_dynamics._simulate import Trajectory, simulate
from isometry.theory.linear_dynamics._times import learning_time

__all__ = [
    # one mode: its curve, when it is learned, which step sizes it allows
    "mode_curve",
    "two_layer_curve",
    "learning_time",
    "optimal_rate",
    "StepSizes",
    # data: their modes, and trees whose modes are known
    "decompose",
    "Modes",
    "pretraining_consistency",
    "Consistency",
    "hierarchical_data",
    "hierarchical_spectrum",
    "Hierarchy",
    # networks: initial conditions without interaction of modes, and the descent itself
    "decoupled_weights",
    "balancedness",
    "mode_strengths",
    "simulate",
    "Trajectory",
]
