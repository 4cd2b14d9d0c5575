"""plotly.js for the page: taken from the installed package, compressed.

The package ships one file of 4.8 MB. Packed with gzip and written in base64 it takes 2.0 MB, and browsers since 2023
unpack it themselves (``DecompressionStream``), after the findings are on the screen. Nothing of plotly's Python side
is imported.
"""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import importlib.util
from pathlib import Path

__all__ = ["packed_plotly", "source_hash"]


def packed_plotly() -> tuple[str, str]:
    """Read and pack plotly.js.

    Returns:
        The gzipped source in base64, and its hash for the page's content security policy.

    Raises:
        FileNotFoundError: If plotly is not installed or lacks its JavaScript.
    """
    spec = importlib.util.find_spec("plotly")
    folders = list(spec.submodule_search_locations or []) if spec is not None else []
    path = Path(folders[0], "package_data", "plotly.min.js") if folders else None
    if path is None or not path.is_file():
        raise FileNotFoundError(
            "the report's plots need plotly.js, which the plotly package carries, and it was not found; "
            "reinstall it: pip install --force-reinstall plotly."
        )
    return _packed(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=1)
def _packed(path: Path, _modified: int) -> tuple[str, str]:
    # Browsers normalize line ends of decoded text only in HTML, not in a script's textContent: hash the text itself.
    source = path.read_bytes()
    packed = base64.b64encode(gzip.compress(source, compresslevel=9, mtime=0)).decode()
    return packed, source_hash(source)


def source_hash(source: bytes) -> str:
    """Hash an inline script as a content security policy names it.

    Returns:
        For example ``'sha256-...'``, quotes included.
    """
    return f"'sha256-{base64.b64encode(hashlib.sha256(source).digest()).decode()}'"
