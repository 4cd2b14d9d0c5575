"""One process is the oracle of two: the same numbers from half the batch each, and no process that waits for ever."""

from __future__ import annotations

import json
import math
import socket
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from typer.testing import CliRunner

from isometry.measure import data_parallel
from tests.distributed import jobs, pair

OPTIONS = ["mlp:depth=3,width=9,activation=tanh", "--in-shape", "7", "--samples", "5", "--json"]
QUICK = 5.0  # seconds in which an error has ended both processes; the group's own timeout would take 60


class Started(NamedTuple):
    """What runs while the pair does its jobs."""

    folder: Path
    torchrun: subprocess.Popen[str]


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    folder = tmp_path_factory.mktemp("torchrun")
    torchrun = pair.start(
        *("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"),
        *("isometry", "diagnose", *OPTIONS, "--out", "report"),
        cwd=folder,
    )
    yield Started(folder, torchrun)
    torchrun.kill()
    torchrun.communicate()


@pytest.fixture(scope="module")
def found(started, tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    folder = tmp_path_factory.mktemp("processes")
    return pair.run("tests.distributed.jobs", folder, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)


@pytest.mark.parametrize("name", jobs.JOBS)
def test_two_processes_find_what_one_finds(found, name):
    alone = jobs.JOBS[name]()
    for rank in range(2):
        shared = found[rank]["results"][name]
        assert shared.keys() == alone.keys()
        for key, value in alone.items():
            wanted, got = (torch.as_tensor(v, dtype=torch.float64) for v in (value, shared[key]))
            assert got.shape == wanted.shape, key
            # Sums over the samples and units in another order; eigenvalues and densities are no worse than that.
            assert float((got - wanted).abs().max()) <= 1e-10 * float(wanted.abs().max()), key
            assert torch.equal(got, torch.as_tensor(found[0]["results"][name][key], dtype=torch.float64)), key


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        (
            "failing_forward",
            "PeerError: process 1 of 2 failed: ModelCallError: model raised KeyError",
            "ModelCallError:",
        ),
        ("failing_backward", "PeerError: process 1 of 2 failed: ArithmeticError: bang on", "ArithmeticError: bang on"),
        ("failing_between", "PeerError: process 1 of 2 failed: LookupError: no data", "LookupError: no data here"),
        ("failing_and_going_on", "PeerError: process 1 of 2 failed: ModelC", "PeerError: process 0 of 2 failed: proc"),
        (
            "other_batch",
            "PeerError: the processes differ: process 0 is at 'the batch with checksum",
            "PeerError: the p",
        ),
        (
            "other_model",
            "PeerError: the processes differ: process 0 is at 'the model with checksum",
            "PeerError: the p",
        ),
        ("other_call", "PeerError: the processes differ: process 0 is at 'measure.fisher", "PeerError: the processes"),
        (
            "leaving_early",
            "PeerError: process 1 of 2 has left the block while process 0 goes on (meas",
            "PeerError: proc",
        ),
        (
            "nested",
            "ValueError: blocks in which processes share a measurement cannot be nested",
            "ValueError: blocks in",
        ),
        ("killed", "PeerError: the exchange with the other processes broke off:", None),
    ],
)
def test_errors_end_both_processes_with_a_sentence(found, name, first, second):
    for rank, words in enumerate((first, second)):
        if words is not None:
            assert found[rank]["wrong"][name].startswith(words)
            assert found[rank]["seconds"][name] < QUICK


def test_an_error_of_all_can_be_caught_and_the_block_goes_on(found):
    alone = jobs.same_error(0)
    assert [f["wrong"]["same_error"] for f in found] == pytest.approx([alone, alone], rel=1e-10)


def test_without_a_generator_all_draw_the_same(found):
    first, second = (f["wrong"]["own_random_numbers"] for f in found)
    assert first == second
    assert all(math.isfinite(number) for number in first)


def test_outside_of_the_block_nothing_is_exchanged(found):
    fim = jobs.measure.fisher(jobs.mlp(), jobs.batch())
    asked, other = (f["wrong"]["outside"] for f in found)
    assert other is None
    assert torch.allclose(asked["top"], fim.top(1).eigenvalues, rtol=1e-10)
    assert torch.allclose(asked["product"], fim.matvec(torch.ones(fim.size, dtype=torch.float64)), rtol=1e-10)
    assert [f["wrong"]["kept_graph"] for f in found] == pytest.approx([0, 0], abs=1e-12)


def test_a_group_of_one_and_no_group_change_nothing(tmp_path):
    alone = jobs.fisher_kinds()
    with data_parallel():
        without = jobs.fisher_kinds()
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        with data_parallel():
            one = jobs.fisher_kinds()
    finally:
        torch.distributed.destroy_process_group()
    for key, value in alone.items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(without[key])), key
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(one[key])), key


def test_started_as_one_of_several_without_a_group(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with (
        pytest.raises(ValueError, match=r"started as one of 2, but there is no process group; call torch\.distributed"),
        data_parallel(),
    ):
        pass


def plain(content):
    """What does not depend on the clock."""
    return {key: value for key, value in content.items() if key not in ("created", "cost")}


def close(one, other, path=""):
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            close(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), path
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            close(a, b, f"{path}[{i}]")
    elif isinstance(one, float):
        assert other == pytest.approx(one, rel=1e-5, abs=1e-12), path
    else:
        assert one == other, path


def test_the_command_line_prints_one_document_equal_to_that_of_one_process(started):
    from isometry.cli import app

    out, err = started.torchrun.communicate(timeout=120)
    assert started.torchrun.returncode == 0, err
    assert {p.name for p in (started.folder / "report").iterdir()} == {"index.html", "diagnosis.json"}
    alone = CliRunner().invoke(app, ["diagnose", *OPTIONS])
    close(plain(json.loads(alone.stdout)), plain(json.loads(out)))  # two documents in a row would not be JSON
    assert json.loads(out)["fisher"]["eigenvalues"]


def test_the_command_line_ends_all_processes_with_one_code(found):
    assert [f["wrong"]["exit_code"] for f in found] == [3, 3]
    for code, said in (f["wrong"]["other_model_on_the_command_line"] for f in found):
        assert code == 2
        assert "error: the processes differ: process 0 is at 'the model with checksum" in said


def test_the_command_line_divides_nothing_else():
    from isometry.cli import app

    done = CliRunner().invoke(app, ["theory", "critical", "tanh"], env={"RANK": "1", "WORLD_SIZE": "2"})
    assert done.exit_code == 2
    assert "torchrun divides the work of diagnose alone; run isometry theory in one process." in " ".join(
        done.output.replace("│", "").split()
    )
