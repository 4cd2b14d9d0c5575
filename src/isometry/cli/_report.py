"""``isometry report``: the file of a probe as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from isometry.cli._shell import alone, check_writable, console, folder, guarded, print_json

__all__ = ["report"]


@guarded
def report(
    probe: Annotated[
        Path, typer.Argument(metavar="PROBE", help="The file that a Probe wrote: JSON lines, or Parquet.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", parser=folder, help="Write index.html and probe.json there."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print probe.json alone on standard output.")] = False,
) -> None:
    """Draw what a probe measured in a training, over steps and over seconds.

    Reads the file of isometry.training.Probe; the training may still be
    running. Without --out the last value of each quantity is printed.

    isometry report probe.jsonl --out report
    isometry report probe.jsonl --json
    """
    with alone(json):
        if out is not None:
            check_writable(out, "--out")
        from isometry.training import read_probe

        log = read_probe(probe)
        content = log.to_dict()
        if out is not None:
            import json as plain

            from isometry.report import render_timeline, write_text

            write_text(plain.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n", out / "probe.json")
            write_text(render_timeline(content), out / "index.html")
    if json:
        print_json(content)
        return
    console().print(str(log), markup=False, highlight=False)
    if out is not None:
        console().print(f"report: {out / 'index.html'}", markup=False, highlight=False)
