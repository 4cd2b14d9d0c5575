from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

import isometry
from isometry.diagnosis import diagnose, prescribe

from .nets import CLASSES, SIZE, assert_same, data, fingerprint, mlp


def plain(value):
    if isinstance(value, dict):
        return all(isinstance(k, str) and plain(v) for k, v in value.items())
    if isinstance(value, list):
        return all(plain(v) for v in value)
    return value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value))


@pytest.fixture(scope="module")
def sick():
    return diagnose(mlp(40), data(), samples=32, names=("<b>net</b>", "toy"))


def test_content_has_every_section_of_the_schema(sick):
    from isometry.report import Content

    whole = sick.to_dict()
    assert set(whole) == set(Content.__annotations__)
    assert plain(whole)
    assert whole["schema"] == 1
    assert whole["verdict"] == sick.verdict == "error"
    assert whole["subject"]["classes"] == CLASSES
    assert whole["subject"]["activation"] == "tanh"
    assert whole["prescription"]["changes"]
    assert whole["proof"] is None
    layers = whole["signal"]["layers"]
    assert len(layers) == 41
    assert layers[2]["q_theory"] == pytest.approx(layers[2]["q"], rel=0.5)
    assert layers[-1]["q_theory"] is None  # the readout is no hidden layer
    assert layers[-2]["gradient_theory"] == pytest.approx(layers[-2]["gradient_norm"])
    assert whole["signal"]["measured_efold_gradient"] == pytest.approx(whole["signal"]["xi_grad"], rel=0.2)
    assert whole["signal"]["measured_efold_forward"] == pytest.approx(whole["signal"]["xi_c"], rel=0.3)
    assert whole["fisher"]["max_step_size"] == pytest.approx(2 / whole["fisher"]["lambda_max"])
    assert whole["fisher"]["bound_rigorous"] >= whole["fisher"]["lambda_max"]
    assert whole["phase"]["before"]["sigma_w"] == pytest.approx(1 / math.sqrt(3), rel=0.1)
    assert whole["phase"]["after"]["sigma_w"] > 1


def test_saved_report_is_whole_and_escapes_names(sick, tmp_path):
    sick.save(tmp_path / "report")
    assert {p.name for p in (tmp_path / "report").iterdir()} == {"index.html", "diagnosis.json"}
    assert json.loads((tmp_path / "report" / "diagnosis.json").read_text()) == sick.to_dict()
    page = (tmp_path / "report" / "index.html").read_text()
    assert "<b>net</b>" not in page
    assert "correlation" in page
    assert "<b>net</b>" not in sick._repr_html_()


def test_interrupted_save_leaves_nothing_half_written(sick, tmp_path, monkeypatch):
    def interrupted(_content):
        raise KeyboardInterrupt

    monkeypatch.setattr("isometry.report.render", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sick.save(tmp_path / "report")
    assert not (tmp_path / "report").exists()
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotADirectoryError, match="give a folder"):
        sick.save(tmp_path / "file")


def test_print_names_verdict_findings_and_prescription(sick):
    text = str(sick)
    assert text.startswith("verdict: error")
    assert "correlation_collapse" in text
    assert "prescription: orthogonal" in text
    assert "evidence" not in repr(sick)


@pytest.mark.parametrize(
    "make",
    [
        lambda: mlp(8),
        lambda: nn.Sequential(nn.Linear(SIZE, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, CLASSES)),
        lambda: nn.Sequential(nn.Unflatten(1, (4, 4)), _Rows()),
    ],
)
def test_model_and_rng_are_as_before_and_same_seed_same_diagnosis(make):
    model = make()
    model[0].train()
    before, rng = fingerprint(model), torch.get_rng_state()
    first = diagnose(model, data(), samples=16, seed=3)
    assert_same(before, fingerprint(model))
    assert torch.equal(rng, torch.get_rng_state())
    again = diagnose(model, data(), samples=16, seed=3)
    assert [f.code for f in first.findings] == [f.code for f in again.findings]
    assert first.to_dict()["signal"] == again.to_dict()["signal"]


class _Rows(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.GRU(4, 8, batch_first=True), nn.Linear(8, CLASSES)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


def test_what_does_not_apply_is_listed_with_the_reason():
    skipped = {s.what: s.why for s in diagnose(nn.Sequential(nn.Unflatten(1, (4, 4)), _Rows()), data()).skipped}
    assert "GRU" in skipped["mean-field theory"]
    broken = mlp(2)
    broken[0].weight.data[0, 0] = math.nan
    skipped = {s.what: s.why for s in diagnose(broken, data()).skipped}
    assert "not finite" in skipped["Fisher information"]


def test_healthy_nets_get_no_prescription():
    model = mlp(3, gain=1.0)
    nn.init.normal_(model[-1].weight, std=0.01)
    found = diagnose(model, data())
    assert found.verdict == "healthy", found
    assert found.prescription is None
    assert any(s.what == "prescription" and "nothing needs" in s.why for s in found.skipped)


def test_regression_targets_and_no_targets():
    x, _ = data()
    found = diagnose(mlp(3, gain=1.0), (x, torch.randn(len(x), CLASSES)), samples=16)
    assert found.to_dict()["subject"]["likelihood"] == "gaussian"
    assert diagnose(mlp(3, gain=1.0), in_shape=(SIZE,), samples=16).to_dict()["subject"]["classes"] is None


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="prove must be 0 or at least 10 steps, got 3"):
        diagnose(mlp(2), data(), prove=3)
    with pytest.raises(ValueError, match="no data to train on"):
        diagnose(mlp(2), in_shape=(SIZE,), prove=20)
    for seed in ("a", 1.5, True, 10**20):
        for function in (diagnose, prescribe):
            with pytest.raises(ValueError, match=r"seed must be a whole number below 2\^63, got"):
                function(mlp(2), data(), seed=seed)


def test_it_is_the_packages_main_function():
    assert isometry.diagnose is diagnose
