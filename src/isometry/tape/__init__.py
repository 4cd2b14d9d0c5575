"""Activations and cotangents of a model's modules, streamed in one pass.

``Inputs`` is what a model is called with; ``record`` watches the calls of chosen modules while the model runs;
``Recording.pull_back`` sends cotangents back through the graph and hands each module's share to a listener as it
appears, so nothing has to be kept. ``untouched`` is the promise that every measurement makes: the model is afterwards
exactly as before; ``measuring`` also makes it fit for derivatives of any order.
"""

from isometry.tape._denormals import flushed_denormals
from isometry.tape._inputs import Inputs, as_inputs
from isometry.tape._measuring import measuring
from isometry.tape._outputs import select_output
from isometry.tape._plain_operations import plain_operations
from isometry.tape._record import Call, Recording, StaleActivationError, record
from isometry.tape._untouched import untouched

__all__ = [
    # what goes in, and what of it all comes out
    "Inputs",
    "as_inputs",
    "select_output",
    # watching
    "Call",
    "Recording",
    "StaleActivationError",
    "record",
    # leaving no trace
    "flushed_denormals",
    "measuring",
    "plain_operations",
    "untouched",
]
