"""Experiments: grids of models, starts, constraints, optimizers, learning rates and seeds, trained and compared.

The training loop is our own and short: runs of small networks must be resumable to the bit after a kill, and start in
milliseconds. Lightning's loggers take part where an experiment names them.
"""

from isometry.training.compare._choose import Choice, Interval, choose_lr, interval
from isometry.training.compare._events import Event
from isometry.training.compare._experiment import Data, Entry, Experiment, OptimizerEntry, ProbeSettings
from isometry.training.compare._grid import Combination, Grid, Run, expand
from isometry.training.compare._read import read_experiment
from isometry.training.compare._results import Band, Comparison, Entered
from isometry.training.compare._run import run_experiment
from isometry.training.compare._summary import read_results

__all__ = [
    # the experiment file
    "Experiment",
    "Data",
    "Entry",
    "OptimizerEntry",
    "ProbeSettings",
    "read_experiment",
    # its runs
    "Combination",
    "Grid",
    "Run",
    "expand",
    # training them
    "Event",
    "run_experiment",
    # what came out
    "Comparison",
    "Entered",
    "Band",
    "read_results",
    # how a learning rate is chosen, and how sure a mean is
    "Choice",
    "choose_lr",
    "Interval",
    "interval",
]
