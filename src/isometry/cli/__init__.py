"""The command line: parse, call, print. No logic.

Exit codes: 0 for success and healthy models, 1 for findings of severity error (or evidence that differs), 2 for bad
usage and bad input, an exit of the user's own code included, 70 for a bug in isometry itself, 130 after Ctrl-C, 141
when the reader of the output left. Results go to standard output, everything else (progress, errors) to standard
error; with ``--json`` standard output holds one JSON document and nothing more, or nothing at all after the exit codes
2, 70 and 130.

Nothing heavy is imported before a command runs, so that ``isometry --help`` answers at once.
"""

from isometry.cli._app import app, main

__all__ = ["app", "main"]
