"""Predictions that need no model: mean-field signal propagation and the law of the Jacobian's singular values."""

from isometry.theory._activation import Activation
from isometry.theory._averages import GaussianAverages
from isometry.theory._mean_field import MeanField
from isometry.theory._resolve import activation_names, activation_of
from isometry.theory._results import *
