"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isometry.report._content import Content
from isometry.report._files import whole_file
from isometry.report._page import render

__all__ = ["write", "write_text"]


def write(content: Content | Mapping[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write a diagnosis as one self-contained HTML page.

    The page replaces the file in one step when it is complete, so an interrupted run leaves the old file or none.

    Args:
        content: The structure of ``report.Content``.
        path: The HTML file; its folder is made where it is missing.

    Returns:
        The path.
    """
    return write_text(render(content), path)


def write_text(text: str, path: str | os.PathLike[str]) -> Path:
    """Write a text file in one step: a temporary file beside it takes its place when it is complete.

    Args:
        text: What to write, as UTF-8.
        path: The file; its folder is made where it is missing.

    Returns:
        The path.

    Raises:
        IsADirectoryError: If the path is a folder.
        OSError: If the folder cannot be made, or nothing can be written there.
    """
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(
            f"path {str(target)!r} is a folder; give a file in it, such as {target / 'index.html'}."
        )
    with whole_file(target) as part, part.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return target
