"""The program as the shell sees it: exit codes, streams, Ctrl-C, and how fast it answers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from isometry import __version__

PROGRAM = [sys.executable, "-m", "isometry"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100", "PYTHONWARNINGS": "default"}


def run(*arguments, cwd=None):
    return subprocess.run(
        [*PROGRAM, *arguments], capture_output=True, text=True, timeout=120, cwd=cwd, env=ENVIRONMENT, check=False
    )


def test_version():
    done = run("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"isometry {__version__}\n", "")


def test_help_has_examples_and_loads_nothing_heavy():
    code = (
        "import sys\nfrom isometry.cli import main\nsys.argv = ['isometry', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'scipy', 'plotly'} & set(sys.modules)\nsys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 0, done.stderr
    assert "isometry diagnose mlp:depth=100,width=100,activation=tanh --prove 300" in done.stdout
    said = " ".join(done.stdout.split())
    assert "Exit codes: 0 healthy" in said
    assert "70 a bug in isometry" in said
    for reference in ("transformers:gpt2", "transformers:FOLDER", "timm:resnet18", "shakespeare", "a text"):
        assert reference in said


def test_without_arguments_it_helps():
    done = run()
    assert "Usage" in done.stdout + done.stderr
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("diagnos",), "No such command 'diagnos'"),
        (("diagnose", "raising.py:build"), "ZeroDivisionError: division by zero"),
    ],
)
def test_bad_usage_is_one_sentence_and_exit_code_2(tmp_path, arguments, message):
    (tmp_path / "raising.py").write_text("def build():\n    return 1 / 0\n")
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_json_alone_though_the_users_code_prints(tmp_path):
    (tmp_path / "act.py").write_text("import torch\n\nprint('imported')\n\n\ndef act(x):\n    return torch.tanh(x)\n")
    done = run("theory", "critical", "act.py:act", "--q-star", "1/64", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["sigma_w"] > 1
    assert done.stderr == "imported\n"


@pytest.mark.usefixtures("_heeds_interrupts")
def test_ctrl_c_is_130_and_leaves_nothing(tmp_path):
    (tmp_path / "slow.py").write_text(
        "import sys, time\n\n\ndef build():\n    print('ready', file=sys.stderr, flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [*PROGRAM, "diagnose", "slow.py:build", "--data", "digits", "--out", "report"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=ENVIRONMENT,
    )
    with process:
        assert process.stderr.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert out == ""
    assert err == "interrupted; no half-written file was left.\n"
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "__pycache__") == ["slow.py"]


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_reader_that_leaves_is_141_and_not_a_finding(more):
    with subprocess.Popen(
        [*PROGRAM, "diagnose", "mlp:depth=2,width=8,activation=tanh", "--in-shape", "8", "--samples", "8", *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    ) as process:
        process.stdout.close()  # before anything is written
        said = process.stderr.read()
    assert process.returncode == 141
    assert said == ""
