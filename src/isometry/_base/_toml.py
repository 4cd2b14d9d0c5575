"""TOML files read key by key, so that whatever nobody understood is an error that names it."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar, cast

from isometry._base._checks import unknown_name

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover - the fallback is the same module under its older name
    import tomli as tomllib

__all__ = ["TomlTable", "read_toml"]

_T = TypeVar("_T")


def read_toml(path: Path) -> TomlTable:
    """Read a TOML file.

    Args:
        path: The file.

    Returns:
        Its top table.

    Raises:
        ValueError: If it is not TOML.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name} is not TOML: {error}.") from error
    return TomlTable(table, path.name)


_MISSING: Any = object()


class TomlTable:
    """A TOML table that notes which of its keys were read, so that the rest can be named.

    Args:
        values: The table.
        file: Its file's name, for messages.
        where: The table's place in the file, for messages.
    """

    def __init__(self, values: dict[str, Any], file: str, where: str = "") -> None:
        self.values = values
        self.file = file
        self.where = where or file
        self.read: list[str] = []

    def take(self, key: str, kind: type[_T], default: Any = _MISSING) -> _T:
        """Read a value of a type; whole numbers pass for real ones, truth values for no number.

        Returns:
            The value, or the default where the key is missing.

        Raises:
            ValueError: If it is missing without a default, or of another type.
        """
        self.read.append(key)
        if key not in self.values:
            if default is not _MISSING:
                return cast("_T", default)
            self._check_unknown(also=key)
            raise ValueError(f"{self.where} lacks the key {key!r}; add it.")
        value = self.values[key]
        fits = isinstance(value, (int, float) if kind is float else kind)
        if not fits or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"{self.where}: {key} must be {_WORDS.get(kind, kind.__name__)}, got {value!r}.")
        return cast("_T", value)

    def text(self, key: str) -> str:
        """Read a string that is not empty.

        Returns:
            The string, stripped.

        Raises:
            ValueError: If it is empty.
        """
        value = self.take(key, str).strip()
        if not value:
            raise ValueError(f"{self.where}: {key} is empty; write a sentence.")
        return value

    def words(self, key: str, default: Any = _MISSING) -> list[str]:
        """Read a string or a list of strings.

        Returns:
            A list.

        Raises:
            ValueError: If it is neither.
        """
        value = self.take(key, object, default)
        found = [value] if isinstance(value, str) else list(value) if isinstance(value, Iterable) else []
        if (not found and default is _MISSING) or not all(isinstance(v, str) and v for v in found):
            raise ValueError(f"{self.where}: {key} must be a string or a list of strings, got {value!r}.")
        return found

    def choice(self, key: str, allowed: tuple[str, ...], default: Any = _MISSING) -> str:
        """Read one of a few words.

        Returns:
            The word.

        Raises:
            ValueError: If it is another one.
        """
        value = self.take(key, str, default)
        if value not in allowed:
            error: ValueError = unknown_name(f"{key} in {self.where}", value, allowed)
            raise error
        return value

    def table(self, key: str) -> TomlTable:
        """Read a table inside.

        Returns:
            The table.
        """
        return TomlTable(self.take(key, dict), self.file, f"{self.where}, [{key}]")

    def tables(self, key: str) -> list[TomlTable]:
        """Read a list of tables.

        Returns:
            At least one.

        Raises:
            ValueError: If there is none.
        """
        value: Any = self.take(key, object)
        found = [value] if isinstance(value, dict) else value
        if not isinstance(found, list) or not found or not all(isinstance(v, dict) for v in found):
            raise ValueError(f"{self.where}: {key} must be one or more tables, written [[...{key}]], got {value!r}.")
        return [TomlTable(v, self.file, f"{self.where}, {key} {i}") for i, v in enumerate(found, 1)]

    def done(self) -> None:
        """Refuse keys that nobody has read."""
        self._check_unknown()

    def _check_unknown(self, also: str | None = None) -> None:
        """Name the first key that nobody read, with its nearest match."""
        for key in self.values:
            if key not in self.read and (also is None or _near(key, also)):
                error: ValueError = unknown_name(f"key in {self.where}:", key, [k for k in self.read if k != key])
                raise error


def _near(one: str, other: str) -> bool:
    return bool(difflib.get_close_matches(one, [other], cutoff=0.6))


_WORDS = {str: "a string", int: "a whole number", float: "a number", dict: "a table"}
