"""How diagnoses and prescriptions look in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console

    from isometry.diagnosis import Diagnosis, Prescription
    from isometry.report import ProofSection

__all__ = ["print_diagnosis", "print_prescription"]

SHOWN = 12  # parameters of a prescription that are printed


def print_diagnosis(diagnosis: Diagnosis, console: Console) -> None:
    """Print verdict, findings, prescription, proof and what was not measured."""
    from isometry.report import coverage_sentence, print_findings, tidy

    content = tidy(diagnosis.to_dict())
    print_findings(content, console)
    if content["prescription"] is not None:
        for note in content["prescription"]["notes"]:
            _line(console, "Note", note)
    if content["proof"] is not None:
        console.print(_proof(content["proof"], "sample" if content["subject"]["nodes"] is None else "node"))
    if content["fisher"] is not None:
        console.print(Text(coverage_sentence(content), style="dim"))
    for skipped in content["skipped"]:
        console.print(Text(f"not measured: {skipped['what']}: {skipped['why']}", style="dim"))


def print_prescription(prescription: Prescription, console: Console) -> None:
    """Print what a prescription changes."""
    _line(console, "Prescription", prescription.summary)
    table = Table(box=box.HORIZONTALS, pad_edge=False)
    for name in ("Parameter", "Action", "How"):
        table.add_column(name, no_wrap=name == "Action")
    rows = prescription.changes
    cut = len(rows) > SHOWN
    for change in rows[: SHOWN - 1] if cut else rows:
        table.add_row(Text(change.name), change.action, Text(change.detail))
    if cut:
        table.add_row(f"... {len(rows) - SHOWN} more", "", "")
        table.add_row(Text(rows[-1].name), rows[-1].action, Text(rows[-1].detail))
    console.print(table)
    if prescription.input_scale is not None:
        _line(console, "Inputs", f"multiply them by {prescription.input_scale:.4g}")
    for note in prescription.notes:
        _line(console, "Note", note)


def _proof(proof: ProofSection, of: str) -> Table:
    size = f"1 {of}" if proof["batch_size"] == 1 else f"{proof['batch_size']} {of}s"
    title = f"{proof['steps']} steps of {proof['optimizer']}, {size} each"
    table = Table(title=title, title_justify="left", box=box.HORIZONTALS, pad_edge=False)
    for name in ("", "step size", "first loss", "last loss", "accuracy"):
        table.add_column(name, justify="right" if name else "left")
    for name, run in (("as it is", proof["before"]), ("prescribed", proof["after"])):
        if run is None:
            continue
        loss = run["loss"]
        ends = (loss[0], loss[-1]) if loss else (None, None)
        table.add_row(name, *(_number(v) for v in (run["lr"], *ends)), _percent(run["accuracy"]))
    table.add_row("chance", "", "", _number(proof["chance"]), "", style="dim")
    return table


def _line(console: Console, head: str, words: str) -> None:
    console.print(Text.assemble((f"{head}: ", "bold"), words))


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
