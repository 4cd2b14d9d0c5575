"""The ground that every room stands on: results, errors, budgets, random streams, references, progress, processes.

Nothing here knows about neural networks; every other room may import from it, and it imports from none.
"""

from isometry._base._budget import DEFAULT_BUDGET, MemoryBudgetError, allowed_bytes, check_budget, format_bytes
from isometry._base._checks import IGNORED, check_finite, check_positive, check_tensor, unknown_name
from isometry._base._fingerprint import fingerprint
from isometry._base._progress import Reporter, progress, reporting
from isometry._base._references import BadReferenceError, in_package, in_user_code, load_callable, short_traceback
from isometry._base._result import Cost, Result, stopwatch
from isometry._base._rounds import BegunAgainError, PeerError
from isometry._base._sharing import ALONE, current_team, sharing, team_for, together
from isometry._base._streams import base_seed, generator_for, preserved_rng, stream
from isometry._base._team import Team
from isometry._base._toml import TomlTable, read_toml

__all__ = [
    # results
    "Cost",
    "Result",
    "stopwatch",
    # errors and guards
    "DEFAULT_BUDGET",
    "IGNORED",
    "MemoryBudgetError",
    "allowed_bytes",
    "check_budget",
    "check_finite",
    "check_positive",
    "check_tensor",
    "format_bytes",
    "unknown_name",
    # randomness
    "base_seed",
    "generator_for",
    "preserved_rng",
    "stream",
    # references to users' code
    "BadReferenceError",
    "in_package",
    "in_user_code",
    "load_callable",
    "short_traceback",
    # files
    "TomlTable",
    "read_toml",
    # progress
    "Reporter",
    "progress",
    "reporting",
    # several processes
    "ALONE",
    "BegunAgainError",
    "PeerError",
    "Team",
    "current_team",
    "fingerprint",
    "sharing",
    "team_for",
    "together",
]
