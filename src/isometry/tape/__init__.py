"""Activations and cotangents of a model's modules, streamed in one pass.

``record`` watches the calls of chosen modules while the model runs; ``Recording.pull_back`` sends cotangents back
through the graph and hands each module's share to a listener as it appears, so nothing has to be kept.
``untouched`` is the promise that every measurement makes: the model is afterwards exactly as before.
"""

from isometry.tape._record import Call, Recording, StaleActivationError, record
from isometry.tape._untouched import untouched

__all__ = ["Call", "Recording", "StaleActivationError", "record", "untouched"]
