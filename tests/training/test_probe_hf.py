"""The probe in the transformers library's Trainer, with a tiny random GPT-2.

Seen to fail: without ``attach`` nothing is in the Trainer's history; with the start's step left out a resumed run is
refused.
"""

import sys

import pytest
import torch

from isometry.training import Probe, read_probe

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

pytestmark = pytest.mark.filterwarnings("ignore")  # the library's own
TOKENS = torch.randint(11, (24, 5), generator=torch.Generator().manual_seed(0))


def train(folder, *, steps, probed=True, resume=None, path=None, board=False):
    from isometry.training import ProbeTrainerCallback

    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=11, n_positions=5, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    model = transformers.GPT2LMHeadModel(config)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), max_steps=steps, per_device_train_batch_size=4, use_cpu=True, save_strategy="steps",
        save_steps=2, logging_steps=100, report_to=["tensorboard"] if board else [], disable_tqdm=True, seed=3,
        lr_scheduler_type="constant",
    )  # fmt: skip
    trainer = transformers.Trainer(
        model=model, args=arguments, train_dataset=[{"input_ids": t, "labels": t} for t in TOKENS]
    )
    probe = None
    if probed:
        probe = Probe(model, {"input_ids": TOKENS[:4]}, every=1, max_overhead=1e9, path=path, samples=4)
        ProbeTrainerCallback.attach(trainer, probe)
    trainer.train(resume_from_checkpoint=resume)
    return probe, model, trainer


def taken(records):
    return [(r["step"], r["measure"], r["values"]) for r in records if r["measure"] in {"signal", "fisher"}]


def test_rows_reach_the_trainers_log_and_the_weights_are_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    probe, model, trainer = train(tmp_path / "a", steps=2, board=True)
    _, plain, _ = train(tmp_path / "b", steps=2, probed=False)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))
    logged = [
        (row["step"], row["probe/fisher/trace"]) for row in trainer.state.log_history if "probe/fisher/trace" in row
    ]
    wanted = [(step, values["trace"]) for step, measure, values in taken(probe.history.records) if measure == "fisher"]
    assert logged == wanted
    assert [step for step, _ in wanted] == [0, 1, 2]
    assert probe.left_out == {}
    assert not probe.running
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = next(p.parent for p in tmp_path.rglob("events.out.tfevents*"))
    board = events.EventAccumulator(str(folder))
    board.Reload()
    (tag,) = [name for name in board.Tags()["scalars"] if name.endswith("probe/fisher/trace")]
    assert [e.step for e in board.Scalars(tag)] == [0, 1, 2]


def test_a_resumed_training_has_no_row_twice(tmp_path):
    path = tmp_path / "probe.jsonl"
    train(tmp_path / "a", steps=3, path=path)
    assert taken(read_probe(path).records)[-1][0] == 3
    probe, _, _ = train(tmp_path / "a", steps=4, resume=str(tmp_path / "a" / "checkpoint-2"), path=path)
    whole, _, _ = train(tmp_path / "b", steps=4)
    rows = taken(read_probe(path).records)
    assert [row[:2] for row in rows] == [row[:2] for row in taken(whole.history.records)]
    assert rows[:6] == taken(whole.history.records)[:6]
    assert taken(probe.history.records) == rows


def test_a_second_training_with_the_same_probe_is_refused(tmp_path):
    _, _, trainer = train(tmp_path, steps=1)
    with pytest.raises(RuntimeError, match="the probe holds measurements up to step 1; say where the training goes on"):
        trainer.train()


def test_without_transformers_it_says_what_to_install(monkeypatch):
    import isometry.training

    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "isometry.training._hf", raising=False)
    with pytest.raises(
        ImportError, match=r"ProbeTrainerCallback needs transformers, which is not installed; pip install"
    ):
        isometry.training.ProbeTrainerCallback  # noqa: B018
