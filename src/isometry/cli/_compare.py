"""``isometry compare``: an experiment file, trained and compared."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from isometry.cli._shell import FOUND, alone, check_writable, console, folder, guarded, print_json

if TYPE_CHECKING:
    from isometry.training.compare import Comparison, Event, Run

__all__ = ["compare"]


@guarded
def compare(
    experiment: Annotated[
        Path, typer.Argument(metavar="EXPERIMENT", help="A TOML file; with --table also the folder of its results.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", parser=folder, help="Folder of the results; by default EXPERIMENT-results here."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the results that are there, from each run's last whole epoch.")
    ] = False,
    engine: Annotated[
        str, typer.Option("--engine", metavar="local|ray", help="Processes of this machine, or tasks of Ray.")
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", min=0, metavar="N", help="Runs at a time; by default one a CPU, at most 8. 0: in this process."
        ),
    ] = None,
    threads: Annotated[int, typer.Option("--threads", min=1, metavar="N", help="Threads of torch for each run.")] = 1,
    table: Annotated[bool, typer.Option("--table", help="Train nothing; print what the results hold so far.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print comparison.json alone on standard output.")] = False,
) -> None:
    """Train a grid of models, initializations, constraints, optimizers, learning rates and seeds, and compare.

    The learning rate of each combination is chosen on validation data; the
    test set is looked at for the chosen one alone. OUT holds index.html, the
    database results.sqlite, and results.csv and .parquet at the end. A run
    that was interrupted goes on with --resume and ends as if it had not been.
    Exit code 1 means: some runs failed; --resume tries them again.

    isometry compare examples/compare_inits.toml --out results
    isometry compare examples/compare_inits.toml --out results --resume
    isometry compare results --table
    """  # noqa: DOC501 - typer.Exit carries the exit code
    with alone(json):
        place = out if out is not None else _default(experiment, table)
        if table:
            from isometry.training.compare import read_results

            found = read_results(place)
        else:
            check_writable(place, "--out")
            found = _train(experiment, place, resume=resume, engine=engine, workers=workers, threads=threads)
            _write(found, place)
    if json:
        print_json(found.to_dict())
    else:
        _print(found)
        if not table:
            console().print(f"report: {place / 'index.html'}", markup=False, highlight=False)
    if found.failures and not table:
        typer.echo(f"{len(found.failures)} of {found.runs} runs failed; --resume tries them again.", err=True)
        raise typer.Exit(FOUND)


def _default(experiment: Path, table: bool) -> Path:
    return experiment if table and experiment.is_dir() else Path(f"{experiment.stem}-results")


def _train(experiment: Path, folder: Path, **options: Any) -> Comparison:
    from isometry.training.compare import expand, read_experiment, run_experiment
    from isometry.training.compare._store import DATABASE

    read = read_experiment(experiment)
    grid = expand(read)
    anew = options["resume"] and not (folder / DATABASE).exists()

    def started() -> None:  # what is refused leaves no results that one could speak of
        at_a_time = "" if options["workers"] is None else f", {options['workers']} at a time"
        typer.echo(
            f"{read.name}: {len(grid.runs)} runs of {read.epochs} epochs{at_a_time}, each on {options['threads']} "
            f"thread(s) ({options['engine']}); results in {folder}",
            err=True,
        )
        if anew:
            typer.echo(f"--resume: there are no results in {folder} yet; every run begins anew.", err=True)

    try:
        with _told(grid.labels, _ended(folder) if options["resume"] else 0, read.epochs) as listener:
            return run_experiment(read, folder, listener=listener, started=started, **options)
    except KeyboardInterrupt:
        typer.echo("every whole epoch is safe; --resume goes on from there.", err=True)
        raise


def _ended(folder: Path) -> int:
    from isometry.training.compare import read_results

    try:
        return read_results(folder).ended
    except (FileNotFoundError, ValueError):  # nothing to resume, or nothing that this version reads: told later
        return 0


@contextlib.contextmanager
def _told(labels: dict[str, str], before: int, epochs: int) -> Iterator[Callable[[Run, Event], None]]:
    """Tell on standard error how far the runs are: a line for each that runs on a terminal, else one as each ends.

    Args:
        labels: What the runs are called.
        before: How many have ended already.
        epochs: Of a run.

    Yields:
        The listener.
    """
    if not sys.stderr.isatty():
        yield _tell_ends(labels, before)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Column

    name = TextColumn(
        "{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)
    )
    loss = TextColumn("{task.fields[loss]}", markup=False, table_column=Column(no_wrap=True, width=12))
    columns = (name, BarColumn(12), MofNCompleteColumn(), loss, TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), expand=True) as progress:
        whole = progress.add_task("runs ended", total=len(labels), completed=before, loss="")
        lines: dict[str, Any] = {}
        ended: set[str] = set()

        def listen(run: Run, event: Event) -> None:
            if event.kind == "epoch":
                if run.id not in lines:
                    lines[run.id] = progress.add_task(labels[run.id], total=epochs, loss="")
                progress.update(lines[run.id], completed=event.epoch, loss=_loss(event))
                return
            if event.kind == "end":
                ended.add(run.id)
                progress.update(whole, completed=before + len(ended))
                if run.id in lines:
                    progress.remove_task(lines.pop(run.id))
            if event.kind == "death" or event.status == "failed":
                progress.console.print(_trouble(labels[run.id], event), markup=False, highlight=False)

        yield listen


def _loss(event: Event) -> str:
    losses = [f"{row.split} {row.value:.3g}" for row in event.rows if row.metric == "loss" and row.split != "train"]
    return losses[-1].replace("validation", "loss") if losses else ""


def _trouble(label: str, event: Event) -> str:
    return f"{label}: {event.notes[0]}" + ("; it goes on from its last whole epoch" if event.kind == "death" else "")


def _tell_ends(labels: dict[str, str], before: int) -> Callable[[Run, Event], None]:
    ended: set[str] = set()
    latest: dict[str, str] = {}

    def listen(run: Run, event: Event) -> None:
        latest[run.id] = _loss(event) or latest.get(run.id, "")
        if event.kind == "death" or event.status == "failed":
            typer.echo(_trouble(labels[run.id], event), err=True)
        if event.kind == "end" and run.id not in ended:
            ended.add(run.id)
            so_far = f"{before + len(ended)} of {len(labels)}"
            typer.echo(f"{so_far}: {labels[run.id]}: {event.status}, {latest[run.id]}", err=True)

    return listen


def _write(found: Comparison, folder: Path) -> None:
    import json as plain

    from isometry.report import render_comparison, write_text

    content = found.to_dict()
    text = plain.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    write_text(text, folder / "comparison.json")
    write_text(render_comparison(content), folder / "index.html")


def _print(found: Comparison) -> None:
    from rich.table import Table
    from rich.text import Text

    known = {name for entry in found.entries for name in entry.numbers}
    names = [name for name in ("validation/loss", "test/loss", "test/accuracy") if name in known]
    table = Table("combination", "lr", "seeds", *names, title=f"{found.name}: {found.ended} of {found.runs} runs ended")
    for label, entry in zip(found.names, found.entries, strict=True):
        choice = entry.choice
        lr = "-" if choice is None else f"{choice.lr:g}" + (f" ({choice.edge} tried)" if choice.edge else "")
        seeds = f"{entry.runs}" + (f", {entry.diverged} diverged" if entry.diverged else "")
        numbers = [str(entry.numbers[name]) if name in entry.numbers else "-" for name in names]
        table.add_row(*map(Text, (label, lr, seeds, *numbers)))
    console().print(table)
    console().print("mean ± half of Student's 95 % interval over the seeds that did not diverge", highlight=False)
    for title, lines in (("left out", found.left_out), ("note", found.notes)):
        for line in lines:
            console().print(f"{title}: {line}", markup=False, highlight=False)
    for run, why in found.failures:
        console().print(f"failed: {run}: {why}", markup=False, highlight=False)
