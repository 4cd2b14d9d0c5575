"""Named data sets and readers of users' files, all as one checked ``Dataset``."""

from isometry.data._batch import batch
from isometry.data._convert import as_dataset
from isometry.data._dataset import Dataset
from isometry.data._decision_tasks import DECISION_TASKS, decision_trials
from isometry.data._gather import MAX_SAMPLES
from isometry.data._load import NAMES, is_text, load
from isometry.data._text import from_text

__all__ = [
    # the description
    "Dataset",
    # from a reference: a name, a file, a folder, a user's function
    "load",
    "NAMES",
    "is_text",
    # from things in memory
    "as_dataset",
    "from_text",
    "MAX_SAMPLES",
    # drawn trials of decision tasks over time
    "decision_trials",
    "DECISION_TASKS",
    # what a measurement looks at
    "batch",
]
