"""The experiment file: what is read, and what is told about what cannot be."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from isometry.training.compare import expand, read_experiment
from tests.training.compare.experiments import SMALL, small, write

ROOT = Path(__file__).parents[3]

FULL = """
seeds = 2
epochs = 5
select = "best"
keep_weights = true

[data]
name = "digits"
validation = 0.3
split_seed = 7

[[model]]
name = "mlp:depth=3,width=16"
label = "narrow"

[[model]]
name = "mlp:depth=3,width=32"

[[init]]
name = "default"

[[init]]
name = "critical"
q_star = 0.25

[[constraint]]
name = "none"

[[constraint]]
name = "stiefel"
scale = "learned"

[[optimizer]]
name = "ADAMW"
lr = [1e-2, 1e-3]
betas = [0.9, 0.95]

[[optimizer]]
name = "riemannian_sgd"
lr = 0.1

[probe]
measures = ["jacobian"]
every = 2
samples = 8

[log]
loggers = ["csv", "wandb"]
wandb = { project = "starts" }
"""


def test_everything_is_read(tmp_path):
    read = small(tmp_path, FULL)
    assert (read.name, read.seeds, read.epochs, read.batch_size) == ("small", (0, 1), 5, 64)
    assert (read.select, read.keep_weights, read.device) == ("best", True, "cpu")
    assert (read.data.validation, read.data.split_seed, read.data.samples) == (0.3, 7, None)
    assert [m.label for m in read.models] == ["narrow", "mlp:depth=3,width=32"]
    assert [(i.name, dict(i.options), i.label) for i in read.inits] == [
        ("default", {}, "default"),
        ("critical", {"q_star": 0.25}, "critical (q_star=0.25)"),
    ]
    assert [c.label for c in read.constraints] == ["none", "stiefel (scale=learned)"]
    adamw, riemannian = read.optimizers
    assert (adamw.name, adamw.lr, adamw.options) == ("AdamW", (1e-3, 1e-2), {"betas": [0.9, 0.95]})
    assert (riemannian.name, riemannian.lr) == ("RiemannianSGD", (0.1,))
    assert read.probe.measures == ("jacobian",)
    assert (read.probe.every, read.probe.samples) == (2, 8)
    assert (read.loggers, read.logger_options) == (("csv", "wandb"), {"wandb": {"project": "starts"}})
    assert read.folder == tmp_path


def test_parts_that_are_left_out(tmp_path):
    read = small(tmp_path)
    assert [i.name for i in read.inits] == ["default"]
    assert [c.name for c in read.constraints] == ["none"]
    assert read.probe is None
    assert (read.loggers, read.batch_size, read.name) == ((), 50, "Small")


def message(tmp_path, text):
    with pytest.raises(ValueError, match=r".") as caught:
        small(tmp_path, text)
    return str(caught.value)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("epochs = 3", "epoch = 3", "unknown key in small.toml: 'epoch'; did you mean 'epochs'?"),
        ("epochs = 3", "", "small.toml lacks the key 'epochs'; add it."),
        ("epochs = 3", "epochs = 0", "small.toml: epochs must be at least 1, got 0."),
        ("epochs = 3", 'epochs = "3"', "small.toml: epochs must be a whole number, got '3'."),
        ("seeds = [0, 3]", "seeds = [1, 1]", "small.toml: seeds [1, 1] names a seed twice; give each once."),
        ("seeds = [0, 3]", "seeds = 1000000000", "small.toml: seeds = 1000000000 asks for that many runs of each"),
        (
            "seeds = [0, 3]",
            "seeds = [99999999999999999999]",
            "seeds must be below 2^63, got 99999999999999999999; take",
        ),
        ("seeds = [0, 3]", "seeds = [-1]", "seeds must be a number of seeds or a list of whole numbers, got [-1]."),
        ("samples = 250", "sample = 250", "unknown key in small.toml, [data]: 'sample'; did you mean 'samples' or"),
        (
            "samples = 250",
            "validation = 1.5",
            "validation must be a share between 0 and 1, got 1.5; learning rates are",
        ),
        ('name = "sgd"', 'name = "sdg"', "small.toml, optimizer 1: unknown optimizer 'sdg'; did you mean"),
        ('name = "sgd"', 'name = "LBFGS"', "small.toml, optimizer 1: unknown optimizer 'LBFGS'; "),
        ('name = "sgd"', 'name = "sgd"\nmomentun = 1', "optimizer 1: 'momentun'; did you mean 'momentum'?"),
        ("lr = [0.01, 0.1]", 'lr = 1\nschedule = "cosin"', "unknown schedule in small.toml, optimizer 1 'cosin'; did"),
        ("lr = [0.01, 0.1]", "lr = []", "small.toml, optimizer 1: lr must be a number > 0 or a list of such, got []."),
        ("lr = [0.01, 0.1]", "lr = [0.1, -1]", "lr must be a number > 0 or a list of such, got [0.1, -1]."),
        ("lr = [0.01, 0.1]", "lr = [0.1, 0.1]", "lr [0.1, 0.1] names a learning rate twice; give each once."),
        ("[[optimizer]]", "[[optimiser]]", "unknown key in small.toml: 'optimiser'; did you mean 'optimizer'?"),
        ("[[optimizer]]", '[[init]]\nname = "critcal"\n[[optimizer]]', "did you mean 'critical'?"),
        (
            "[[optimizer]]",
            '[[init]]\nname = "critical"\nqstar = 1\n[[optimizer]]',
            "unknown key in small.toml, init 1: 'qstar'; did you mean 'q_star'",
        ),
        (
            "[[optimizer]]",
            '[[init]]\nname = "critical"\nq_star = "a"\n[[optimizer]]',
            "small.toml, init 1: q_star must be a number, got 'a'.",
        ),
        ("[[optimizer]]", '[[constraint]]\nname = "stifel"\n[[optimizer]]', "did you mean 'stiefel'?"),
        (
            "[[optimizer]]",
            '[[model]]\nname = "mlp:depth=3,width=16,activation=tanh"\n[[optimizer]]',
            "two of the tables [[model]] are called 'mlp:depth=3,width=16,activation=tanh'; leave one out, or give",
        ),
        ("epochs = 3", 'epochs = 3\nselect = "lst"', "unknown select in small.toml 'lst'; "),
        ("epochs = 3", 'epochs = 3\ndevice = "gpu"', "device 'gpu' is no device of torch; write 'cpu' or 'cuda'."),
        ("[data]", '[probe]\nmeasures = ["fischer"]\n[data]', "unknown measure in small.toml, [probe]: 'fischer'; did"),
        ("[data]", "[probee]\nevery = 1\n[data]", "unknown key in small.toml: 'probee'; did you mean 'probe'?"),
        ("[data]", '[log]\nloggers = "tensorbord"\n[data]', "did you mean 'tensorboard'?"),
        (
            "[data]",
            '[log]\nlogger = "csv"\n[data]',
            "unknown key in small.toml, [log]: 'logger'; did you mean 'loggers'",
        ),
        (
            'name = "sgd"',
            'name = "sgd"\nmomentum = "x"',
            "small.toml, optimizer 1: momentum must be a number, got 'x'.",
        ),
        ('name = "sgd"', 'name = "sgd"\nnesterov = "x"', "small.toml, optimizer 1: nesterov must be "),
        ("[data]", "[data", "small.toml is not TOML: "),
    ],
)
def test_what_is_wrong_is_named(tmp_path, before, after, words):
    assert before in SMALL
    assert words in message(tmp_path, SMALL.replace(before, after))


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape("there is no experiment file 'none.toml'; check the path")):
        read_experiment("none.toml")
    assert read_experiment(str(write(tmp_path))).epochs == 3


def test_the_files_of_the_docs_and_the_examples_are_experiments(tmp_path):
    page = (ROOT / "docs" / "compare.md").read_text(encoding="utf-8")
    ((text,),) = [re.findall(r"^```toml\n(.*?)^```", page, re.M | re.S)]
    assert len(expand(small(tmp_path, text)).runs) == (2 * 3 + 2 * 2 * 2) * 3
    assert len(expand(read_experiment(ROOT / "examples" / "compare_inits.toml")).runs) == 3 * 3 * 3
