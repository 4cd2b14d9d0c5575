"""References to users' Python objects: ``path/to/file.py:name`` and ``package.module:name``.

This is the only place where a path that a user gives is executed, and only for these two forms.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import sysconfig
import traceback
from pathlib import Path
from typing import Any

from isometry._base._checks import unknown_name

__all__ = ["BadReferenceError", "in_package", "in_user_code", "load_callable", "short_traceback"]


class BadReferenceError(ValueError):
    """A reference to a Python object that could not be resolved; the message says why and what to do."""


def load_callable(reference: str, *, argument: str = "reference") -> Any:
    """Import the object that a reference names.

    Args:
        reference: ``path/to/file.py:name`` or ``package.module:name``; ``name`` may have dots.
        argument: What the reference stands for, for the error messages ("MODEL", "DATA").

    Returns:
        The object itself; it is not called.

    Raises:
        BadReferenceError: If the file, module or name is missing, or the user's code raises while it is imported.
    """
    source, separator, name = reference.rpartition(":")
    if not separator or not source or not name:
        raise BadReferenceError(
            f"{argument} {reference!r} is not a reference; write path/to/file.py:name or package.module:name."
        )
    module = _load_file(source, argument) if source.endswith(".py") else _load_module(source, argument)
    target: Any = module
    for part in name.split("."):
        if not hasattr(target, part):
            public = [n for n in dir(target) if not n.startswith("_") and _is_own(getattr(target, n, None), target)]
            raise BadReferenceError(f"{argument}: {source} has no {part!r}: {unknown_name('name', part, public)}")
        target = getattr(target, part)
    return target


def _is_own(value: object, owner: object) -> bool:
    """Tell what a user's file or a module offers from what it has merely imported.

    Returns:
        False for modules, and for classes and functions that were defined outside of the owner's package.
    """
    if inspect.ismodule(value):
        return False
    if not inspect.ismodule(owner) or not (inspect.isclass(value) or inspect.isroutine(value)):
        return True
    home, package = getattr(value, "__module__", None), owner.__name__
    return home is None or f"{home}.".startswith(f"{package}.")


def _load_file(source: str, argument: str) -> Any:
    path = Path(source).expanduser()
    if not path.is_file():
        raise BadReferenceError(f"{argument}: there is no file {source!r}; check the path (now in {Path.cwd()}).")
    path = path.resolve()
    name = f"_isometry_user_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise BadReferenceError(f"{argument}: {source!r} cannot be read as a Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # so that the user's dataclasses and pickles find their module
    sys.path.insert(0, str(path.parent))  # the user's file may import its neighbours, as `python file.py` would
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a script may call sys.exit() at its end
        sys.modules.pop(name, None)
        raise BadReferenceError(
            f"{argument}: {source} raised while it was imported:\n{short_traceback(error)}"
        ) from error
    finally:
        _forget(str(path.parent))
    return module


def _load_module(source: str, argument: str) -> Any:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        return importlib.import_module(source)
    except ModuleNotFoundError as error:
        if error.name is not None and (source == error.name or source.startswith(error.name + ".")):
            raise BadReferenceError(
                f"{argument}: there is no module {source!r}; install it, or give a file as path/to/file.py:name."
            ) from error
        raise BadReferenceError(
            f"{argument}: {source} raised while it was imported:\n{short_traceback(error)}"
        ) from error
    except (Exception, SystemExit) as error:
        raise BadReferenceError(
            f"{argument}: {source} raised while it was imported:\n{short_traceback(error)}"
        ) from error
    finally:
        _forget(here)


def _forget(folder: str) -> None:
    """Take a folder off the import path again; the user's code may have changed the path itself."""
    if folder in sys.path:
        sys.path.remove(folder)


def short_traceback(error: BaseException, frames: int = 3) -> str:
    """Give the last frames of a traceback that lie in the user's code.

    Args:
        error: The exception, with its traceback.
        frames: How many frames to show at most.

    Returns:
        The frames and the error, indented, without the import machinery, this package and torch's own layers.
    """
    stack = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_machinery(frame.filename)]
    lines = traceback.format_list(stack[-frames:]) + traceback.format_exception_only(type(error), error)
    return "".join("    " + line for part in lines for line in part.splitlines(keepends=True)).rstrip()


def in_package(filename: str) -> bool:
    """Tell this package's own source files.

    Args:
        filename: A frame's file name.

    Returns:
        Whether the file belongs to this package.
    """
    return filename.startswith(_PACKAGE)


def in_user_code(filename: str) -> bool:
    """Tell files that a user wrote from this package, torch, the standard library and compiled-in code.

    Args:
        filename: A frame's file name.

    Returns:
        Whether the file is likely the user's.
    """
    if in_package(filename) or filename.startswith("<"):
        return False
    if "site-packages" in filename or "dist-packages" in filename:
        return False
    return not filename.startswith(_STDLIB)


def _is_machinery(filename: str) -> bool:
    if in_package(filename) or filename.startswith("<frozen") or f"{os.sep}torch{os.sep}" in filename:
        return True
    return filename.startswith(_STDLIB) and "-packages" not in filename


_PACKAGE = str(Path(__file__).resolve().parent.parent) + os.sep
# Site-packages may lie below the standard library's folder; what is installed there is not machinery.
_STDLIB = tuple({sysconfig.get_path(key) + os.sep for key in ("stdlib", "platstdlib")})
