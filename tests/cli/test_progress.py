"""The bar: after the delay, on a terminal, never on standard output."""

from __future__ import annotations

import io
import time

from rich.console import Console

from isometry._base import progress
from isometry.cli._progress import DELAY, progress_bar


def terminal():
    return Console(file=io.StringIO(), force_terminal=True, width=80)


def work(seconds):
    for i in range(5):
        progress("Fisher spectrum", i, 5)
        time.sleep(seconds / 5)
    progress("Fisher spectrum", 5, 5)


def test_two_seconds():
    assert DELAY == 2.0


def test_drawn_after_the_delay(capsys):
    console = terminal()
    with progress_bar("Diagnosis", console=console, delay=0.05):
        work(0.5)
    drawn = console.file.getvalue()
    assert "Diagnosis" in drawn
    assert "Fisher spectrum" in drawn
    assert "/5" in drawn
    assert capsys.readouterr().out == ""


def test_drawn_even_if_nothing_reports():
    console = terminal()
    with progress_bar("Diagnosis", console=console, delay=0.05):
        time.sleep(0.4)
    assert "Diagnosis" in console.file.getvalue()


def test_a_report_of_the_whole_shares_its_line():
    console = terminal()
    with progress_bar("Diagnosis", console=console, delay=0.01):
        time.sleep(0.1)
        progress("Diagnosis", 3, 7)
        time.sleep(0.3)
    last = console.file.getvalue().replace("\r", "\n").split("\n")
    assert any("Diagnosis" in line and "3/7" in line for line in last)
    assert not any("Diagnosis" in line and "/?" in line for line in last[-3:])


def test_nothing_before_the_delay():
    console = terminal()
    with progress_bar("Diagnosis", console=console, delay=5.0):
        work(0.01)
    assert console.file.getvalue() == ""


def test_names_of_users_are_no_markup():
    console = terminal()
    with progress_bar("[red]x[/red]", console=console, delay=0.01):
        time.sleep(0.3)
    assert "[red]x[/red]" in console.file.getvalue()


def test_nothing_without_a_terminal(capsys):
    with progress_bar("Diagnosis", delay=0.0):
        work(0.1)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_closed_after_an_error():
    import threading

    import pytest

    def command():
        with progress_bar("Diagnosis", console=terminal(), delay=60.0):
            raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        command()
    deadline = time.time() + 5
    while threading.active_count() > before and time.time() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before
