"""What every command shares: errors become sentences and exit codes, JSON stands alone on standard output."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

import typer

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "BUG",
    "FOUND",
    "INTERRUPTED",
    "USAGE",
    "alone",
    "check_writable",
    "console",
    "folder",
    "guarded",
    "number",
    "numbers",
    "print_json",
]

FOUND, USAGE, BUG, INTERRUPTED = 1, 2, 70, 130
HUNG_UP = 141  # as a shell reports a program that SIGPIPE has ended

_REFUSALS = (ValueError, TypeError, NotImplementedError, MemoryError, ImportError, OSError)

P = ParamSpec("P")
R = TypeVar("R")


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """Turn what a command raises into one sentence on standard error and an exit code.

    Returns:
        The command, guarded.
    """

    @functools.wraps(command)
    def shell(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except BrokenPipeError:
            _hang_up()
        except KeyboardInterrupt:
            _stop("interrupted; no half-written file was left.", INTERRUPTED)
        except BaseException as error:  # noqa: BLE001 - every error ends here, sorted by whose it is
            _explain(error)  # a sys.exit() in the user's code must not pass for an exit code of ours

    return shell


def _explain(error: BaseException) -> NoReturn:
    """Say whose error it is, and stop.

    Our own refusals are sentences already. An error from the user's code is shown with the frames that lie in it, one
    from torch with its message. What is left is a bug of ours, shown whole.
    """
    from isometry._base import in_package, in_user_code, short_traceback

    if os.environ.get("ISOMETRY_DEBUG"):
        traceback.print_exception(error)
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, _REFUSALS) and in_package(frames[-1].filename) and _is_raised(frames[-1].line):
        _stop(str(error), USAGE)
    if any(in_user_code(frame.filename) for frame in frames):
        _stop(f"the user's code raised {type(error).__name__}:\n{short_traceback(error)}", USAGE)
    if isinstance(error, OSError) and error.filename is not None:
        _stop(f"{str(error.filename)!r} cannot be used: {error.strerror}; give another path.", USAGE)
    if isinstance(error, OSError):
        _stop(str(error), USAGE)
    if not in_package(frames[-1].filename):
        _stop(f"{type(error).__name__}: {error} (ISOMETRY_DEBUG=1 shows where)", USAGE)
    traceback.print_exception(error)
    _stop("this is a bug in isometry; please report it with the lines above.", BUG)


def _is_raised(line: str | None) -> bool:
    """Tell a refusal, which a line of ours raises, from a mistake of ours that Python turned down.

    Returns:
        Whether the line is a raise statement; true where the source is not at hand.
    """
    return not line or line.lstrip().startswith("raise ")


def _stop(message: str, code: int) -> NoReturn:
    typer.echo(f"error: {message}" if code != INTERRUPTED else message, err=True)
    raise typer.Exit(code)


def _hang_up() -> NoReturn:
    """Stop without a word: whoever read the output has left, as ``head`` does.

    Raises:
        typer.Exit: Always, with a code of its own.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):  # what still lies in their buffers is written at the interpreter's end
        with contextlib.suppress(OSError):
            stream.flush()
            continue
        os.dup2(nowhere, stream.fileno())
    raise typer.Exit(HUNG_UP)


def console() -> Console:
    """Make a console on standard output.

    Returns:
        The console; as wide as the terminal, 120 columns in a pipe.
    """
    from rich.console import Console

    class Plain(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # rich would end with code 1, which has a meaning of its own here

    return Plain(soft_wrap=False, width=None if sys.stdout.isatty() else 120)


@contextlib.contextmanager
def alone(wanted: bool) -> Iterator[None]:
    """Keep standard output for one JSON document: what the block prints goes to standard error.

    Yields:
        Nothing.
    """
    if wanted:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    else:
        yield


def print_json(content: Any) -> None:
    """Print plain data as JSON on standard output."""
    typer.echo(json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False))


def check_writable(path: Path, option: str) -> None:
    """Make sure that something can be written at a path, before minutes are spent on what is to be written.

    Raises:
        typer.BadParameter: If a file stands where a folder is needed, or the folder is closed to writing.
    """
    place = path if path.is_dir() else path.parent
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise typer.BadParameter(f"{option} {str(path)!r}: {str(place)!r} is not a folder; give another path.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise typer.BadParameter(f"{option} {str(path)!r}: {str(place)!r} is closed to writing; give another path.")


def folder(text: str | Path) -> Path:
    """Read a folder's path; the empty one, mostly a variable that was not set, is not taken for the current folder.

    Returns:
        The path.

    Raises:
        typer.BadParameter: If it is empty, or a file.
    """
    if not str(text).strip():
        raise typer.BadParameter("it is empty; name a folder, or . for the current one.")
    path = Path(text)
    if path.is_file():
        raise typer.BadParameter(f"{str(path)!r} is a file; name a folder.")
    return path


def number(text: str | float) -> float:
    """Read a number, fractions included: ``0.5``, ``1/64``, ``9e-4``.

    Returns:
        The number.

    Raises:
        typer.BadParameter: If it is none.
    """
    try:
        return float(Fraction(str(text).strip()))
    except (ValueError, ZeroDivisionError) as error:
        raise typer.BadParameter(f"{text!r} is not a number; write 0.5, 1/64 or 9e-4.") from error


def numbers(text: str) -> tuple[int, ...]:
    """Read whole numbers with commas or crosses between them: ``1,28,28`` or ``1x28x28``.

    Returns:
        The numbers.

    Raises:
        typer.BadParameter: If they are none.
    """
    parts = str(text).lower().replace("x", ",").split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise typer.BadParameter(f"{text!r} is not a list of whole numbers; write 1,28,28.")
    return tuple(int(part) for part in parts)
