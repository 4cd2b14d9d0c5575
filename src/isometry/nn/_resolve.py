"""One place where every MODEL reference becomes a module."""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from isometry._base import BadReferenceError, load_callable, unknown_name
from isometry.nn._reference import REFERENCE_MODELS, check_shape, reference_model
from isometry.nn._timm import TIMM, timm_model
from isometry.nn._transformers import PREFIX, transformers_model

__all__ = ["resolve_model"]

_WEIGHTS = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")

Reference = str | nn.Module | Callable[..., nn.Module]


def resolve_model(reference: Reference, *, in_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Turn a MODEL reference into a module.

    Args:
        reference: One of

            - a reference model's specification, ``mlp:depth=100,width=100`` (see ``REFERENCE_MODELS``);
            - ``transformers:gpt2,n_layer=2`` or ``transformers:FOLDER``: a model of the transformers library, with
              random weights or as it was saved; ``timm:resnet18``: one of the timm library;
            - ``path/to/file.py:name`` or ``package.module:name``, where the name is a module, a class of modules or
              a function that returns a module;
            - such a module, class or function itself.

            A class or function is called without arguments, or with those of the keywords ``in_shape`` and
            ``classes`` that its signature names.
        in_shape: Shape of one input, without the batch.
        classes: Number of outputs.

    Returns:
        The module; a module instance comes back as it is.

    Raises:
        BadReferenceError: If the reference cannot be imported, calling it raises (the message ends with the user's
            own traceback, shortened), it needs other arguments, or it does not give an ``nn.Module``.
        TypeError: If the reference is of another type.
    """
    if isinstance(reference, nn.Module):
        return reference
    shape = tuple(int(size) for size in in_shape)  # users' models may take one number a sample, such as an id: ()
    if not isinstance(reference, str):
        if not callable(reference):
            raise TypeError(
                f"MODEL must be a reference string, an nn.Module or a callable that returns one, got "
                f"{type(reference).__name__}."
            )
        return _made(reference, getattr(reference, "__qualname__", repr(reference)), shape, classes)
    for prefix, library in ((PREFIX, transformers_model), (TIMM, timm_model)):
        if reference.startswith(prefix):
            return library(reference, in_shape=check_shape(shape), classes=classes)
    source, colon, _ = reference.rpartition(":")
    if reference.partition(":")[0].strip() in REFERENCE_MODELS:
        return reference_model(reference, in_shape=shape, classes=classes)
    if not colon or ("=" in reference and not source.endswith(".py")) or _misspelt(source):
        error = _not_a_reference(reference)
        raise error
    return _made(load_callable(reference, argument="MODEL"), reference, shape, classes)


def _misspelt(source: str) -> bool:
    """Tell a misspelt reference model ("mpl:relu") from a module of that name.

    Returns:
        True if the source names no module or file, but nearly a reference model.
    """
    if not difflib.get_close_matches(source, REFERENCE_MODELS, n=1) or (Path.cwd() / f"{source}.py").is_file():
        return False
    try:
        return importlib.util.find_spec(source) is None
    except (ImportError, ValueError):
        return True


def _not_a_reference(reference: str) -> BadReferenceError:
    name = reference.partition(":")[0]
    if reference.endswith(".py"):
        return BadReferenceError(
            f"MODEL {reference!r} is a Python file; say which module, class or function to take: {reference}:NAME."
        )
    if reference.endswith(_WEIGHTS):
        return BadReferenceError(
            f"MODEL {reference!r} is a file of weights; name the code that builds the module and loads them, "
            "path/to/file.py:name."
        )
    hint = unknown_name("reference model", name, REFERENCE_MODELS)
    return BadReferenceError(
        f"MODEL {reference!r}: {hint} Your own model is written path/to/file.py:name or package.module:name."
    )


def _made(target: Any, name: str, in_shape: tuple[int, ...], classes: int) -> nn.Module:
    if isinstance(target, nn.Module):
        return target
    if not callable(target):
        raise BadReferenceError(
            f"MODEL {name} is {_article(type(target).__name__)}; name an nn.Module, or what makes one."
        )
    keywords = _keywords(target, name, {"in_shape": in_shape, "classes": classes})
    try:
        made = target(**keywords)
    except (Exception, SystemExit) as error:  # a script's main() may end with sys.exit()
        raise BadReferenceError(f"MODEL {name} raised when it was called:\n{_users_traceback(error)}") from error
    if isinstance(made, type) and issubclass(made, nn.Module):
        raise BadReferenceError(f"MODEL {name} returned the class {made.__name__}; return an instance of it.")
    if not isinstance(made, nn.Module):
        raise BadReferenceError(
            f"MODEL {name} returned {_article(type(made).__name__)}, not an nn.Module; return the module itself."
        )
    return made


def _keywords(target: Any, name: str, offered: dict[str, Any]) -> dict[str, Any]:
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):  # a builtin without a signature: called bare
        return {}
    fitting = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    taken = {p.name for p in parameters if p.kind in fitting}
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    missing = [p.name for p in parameters if p.default is p.empty and p.kind not in variadic and p.name not in offered]
    if missing:
        raise BadReferenceError(
            f"MODEL {name} needs the argument{'s' if len(missing) > 1 else ''} {', '.join(missing)}; give defaults, "
            "or name a function that takes none (or in_shape and classes) and returns the module."
        )
    return {key: value for key, value in offered.items() if key in taken}


def _users_traceback(error: BaseException, frames: int = 4) -> str:
    own = traceback.extract_tb(error.__traceback__)[1:]  # the first frame is the call above
    shown = [*own[:1], *own[1:][-(frames - 1) :]] if len(own) > frames else list(own)
    lines = traceback.format_list(shown) + traceback.format_exception_only(type(error), error)
    return "".join("    " + line for part in lines for line in part.splitlines(keepends=True)).rstrip()


def _article(word: str) -> str:
    return f"{'an' if word[:1].lower() in 'aeiou' else 'a'} {word}"
