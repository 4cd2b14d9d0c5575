"""What each process concludes from what all have said: whoever cannot go on raises, and nobody is waited for."""

from __future__ import annotations

import itertools

import pytest

from isometry._base._rounds import BegunAgainError, Line, PeerError, settle

DOES, FAILED, AGAIN, LEFT, DONE = (
    Line("does", "cotangents of 0.weight"),
    Line("failed", "ValueError: no"),
    Line("again"),
    Line("left", "ValueError: no"),
    Line("done"),
)


def outcomes(*lines):
    """Settle the round for every process: "goes on", "ends", or the error's class and text."""
    found = []
    for rank in range(len(lines)):
        try:
            found.append("ends" if settle(rank, lines) else "goes on")
        except (PeerError, BegunAgainError) as error:
            found.append(f"{type(error).__name__}: {error}")
    return found


def test_a_line_survives_its_text():
    for line in (DOES, FAILED, AGAIN, LEFT, DONE, Line("failed", "two\nlines\n")):
        assert Line.read(str(line)) == line


def test_what_is_the_same_goes_on():
    assert outcomes(DOES, DOES, DOES) == ["goes on"] * 3
    assert outcomes(AGAIN, AGAIN) == ["goes on"] * 2
    assert outcomes(FAILED, FAILED) == ["goes on"] * 2  # each raises its own error
    assert outcomes(DONE, DONE) == ["ends"] * 2
    assert outcomes(LEFT, LEFT) == ["ends"] * 2


def test_who_fails_or_leaves_raises_its_own_error_and_the_others_hear_of_it():
    for line in (FAILED, LEFT):
        first, second, third = outcomes(DOES, line, DONE)
        assert first == third == "PeerError: process 1 of 3 failed: ValueError: no"
        assert second == "ends"
    assert outcomes(FAILED, LEFT) == ["ends", "ends"]
    assert outcomes(FAILED, DOES) == ["goes on", "PeerError: process 0 of 2 failed: ValueError: no"]


def test_who_is_done_too_early_is_told():
    for text in outcomes(DONE, DOES):
        assert text.startswith(
            "PeerError: process 0 of 2 has left the block while process 1 goes on (cotangents of 0.w"
        )
    assert "(it began again)" in outcomes(AGAIN, DONE)[1]


def test_one_attempt_that_begins_again_takes_the_others_along():
    own, other = outcomes(AGAIN, DOES)
    assert own == "goes on"
    assert other.startswith("BegunAgainError: another process had to run the model once more")


def test_different_things_are_named():
    other = Line("does", "rows of 1.bias")
    for text in outcomes(DOES, DOES, other):
        assert text.startswith(
            "PeerError: the processes differ: process 0 is at 'cotangents of 0.weight', process 2 at 'rows of 1.bias'"
        )


@pytest.mark.parametrize("size", [2, 3])
def test_nobody_goes_on_without_the_others(size):
    """In every round there is: either all go on or begin again, or those that would wait have raised."""
    for lines in itertools.product([DOES, Line("does", "else"), FAILED, AGAIN, LEFT, DONE], repeat=size):
        found = outcomes(*lines)
        for line, own in zip(lines, found, strict=True):
            if line.kind == "does" and own == "goes on":
                assert set(lines) == {line}
            if line.kind == "again" and own == "goes on":
                assert all(other == "goes on" or other.startswith("BegunAgain") for other in found)
            if line.kind == "left":
                assert own == "ends"
