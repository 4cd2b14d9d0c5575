"""The Jacobian of a diagnosis: token models, sequences, many outputs, several inputs; against torch.func."""

import json
import math

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev

from isometry import Inputs, measure
from isometry.diagnosis import _jacobian, diagnose
from isometry.report import render

from .nets import assert_same, fingerprint

VOCABULARY, LENGTH = 11, 5


class Reader(nn.Module):
    """Embedding plus positions, a recurrent layer, a head: at every position, or at the last one."""

    def __init__(self, outputs=VOCABULARY, *, last=False, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.tokens, self.places = nn.Embedding(VOCABULARY, 6), nn.Embedding(LENGTH, 6)
            self.body, self.head = nn.LSTM(6, 8, batch_first=True), nn.Linear(8, outputs)
        self.last = last

    def tail(self, embedded):
        hidden, _ = self.body(embedded + self.places(torch.arange(embedded.shape[1])))
        return self.head(hidden[:, -1] if self.last else hidden)

    def forward(self, ids):
        return self.tail(self.tokens(ids))


def ids(count=24, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(VOCABULARY, (count, LENGTH), generator=g)


def by_hand(model, embedded, chosen):
    """The largest singular value of d chosen(tail(e)) / d e for one sample, by torch.func."""
    found = jacrev(lambda e: chosen(model.tail(e[None])[0]))(embedded)
    return torch.linalg.svdvals(found.detach().reshape(-1, embedded.numel()).double())


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
@pytest.mark.parametrize("last", [True, False])
def test_tokens_start_at_the_embedding(last):
    model, x = Reader(last=last).eval(), ids()
    y = x[:, 0] if last else x
    before = fingerprint(model)
    found = diagnose(model, (x, y), samples=24)
    assert_same(before, fingerprint(model))
    jacobian = found.evidence.jacobian
    assert (jacobian.start, jacobian.stop, jacobian.left_out) == ("tokens", None, "")
    ends = "the output" if last else "the outputs at all positions"
    assert jacobian.of == f"from the output of 'tokens' (the embedded input, 5 positions) to {ends}"
    batch = found.evidence.case.x.first
    assert len(jacobian.values) == 8
    for row, sample in zip(jacobian.values[:2], batch, strict=False):
        wanted = by_hand(model, model.tokens(sample), lambda out: out)
        assert torch.allclose(torch.tensor(row).double(), wanted[: len(row)], rtol=1e-4, atol=1e-6)
    said = next(f for f in found.findings if f.code == "jacobian")
    assert said.severity == "info"
    assert jacobian.of in said.message
    assert said.value == pytest.approx(jacobian.s_max)
    section = found.to_dict()["jacobian"]
    assert section["of"] == jacobian.of
    assert section["complete"] is True
    assert f"The Jacobian runs {jacobian.of}." in render(found.to_dict()).replace("&#x27;", "'").replace("&#39;", "'")


def test_one_position_where_all_of_them_cost_too_much(monkeypatch):
    monkeypatch.setattr(_jacobian, "SWEEP_WORK", 0.0)  # leaves two passes of the batch: 48 samples
    model, x = Reader().eval(), ids()
    found = diagnose(model, (x, x), samples=24).evidence
    assert found.jacobian.of.endswith("to the outputs at position 5 of 5")
    assert len(found.jacobian.values) == 48 // VOCABULARY
    wanted = by_hand(model, model.tokens(found.case.x.first[0]), lambda out: out[-1])
    assert torch.allclose(torch.tensor(found.jacobian.values[0]).double(), wanted, rtol=1e-4, atol=1e-6)


def test_the_largest_alone_where_even_one_position_costs_too_much(monkeypatch):
    monkeypatch.setattr(_jacobian, "SWEEP_WORK", 0.0)
    monkeypatch.setattr(_jacobian, "BATCH_PASSES", 0)
    model, x = Reader().eval(), ids()
    found = diagnose(model, (x, x), samples=24)
    jacobian = found.evidence.jacobian
    wanted = [by_hand(model, model.tokens(s), lambda out: out[-1])[0] for s in found.evidence.case.x.first[:2]]
    assert jacobian.s_max == pytest.approx(float(sum(wanted)) / 2, rel=0.02)
    assert math.isnan(jacobian.s_min)
    assert math.isnan(jacobian.mean_square)
    why = next(s.why for s in found.skipped if s.what == "all singular values of the Jacobian")
    assert "is 11 x 30; only the largest was sought, without forming it" in why
    section = found.to_dict()["jacobian"]
    assert (section["complete"], section["s_min"], section["mean_square"]) == (False, None, None)
    assert "root mean square" not in next(f for f in found.findings if f.code == "jacobian").message
    assert json.dumps(found.to_dict())
    assert 'id="plot-jacobian"' not in render(found.to_dict())


def test_a_budget_that_is_too_small_leaves_the_largest():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(300, 40), nn.LayerNorm(40), nn.Tanh(), nn.Linear(40, 200))
    x = torch.randn(20, 300)
    y = torch.arange(20)
    whole = diagnose(model, (x, y), samples=20).evidence.jacobian
    small = diagnose(model, (x, y), samples=20, budget=200_000).evidence.jacobian
    assert whole.left_out == ""
    assert "the Jacobian from the input to the output is 200 x 300" in small.left_out
    tops = [row[0] for row in small.values]
    assert tops == pytest.approx([row[0] for row in whole.values[: len(tops)]], rel=0.02)


def test_many_outputs_are_swept_from_the_narrow_side():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 2000))
    x = torch.randn(20, 4)
    found = diagnose(model, (x, torch.randn(20, 2000)), samples=20).evidence.jacobian
    assert len(found.values[0]) == 4
    assert found.left_out == ""


def test_padding_takes_the_last_position_that_counts(monkeypatch):
    monkeypatch.setattr(_jacobian, "SWEEP_WORK", 0.0)

    class Padded(Reader):
        def forward(self, input_ids, attention_mask):
            return super().forward(input_ids) + 0 * attention_mask.unsqueeze(-1)

    mask = torch.ones(24, LENGTH, dtype=torch.long)
    mask[:, 3:] = 0
    x = Inputs(kwargs={"input_ids": ids(), "attention_mask": mask})
    found = diagnose(Padded().eval(), x, samples=24).evidence.jacobian
    assert found.of.endswith("at position 3 of 5")
    mask = torch.eye(24)[:, :LENGTH].long()
    mask[:, 0] = 1
    mask[0, 0], mask[0, 1] = 0, 1
    missed = diagnose(Padded().eval(), Inputs(kwargs={"input_ids": ids(), "attention_mask": mask}), samples=24)
    why = next(s.why for s in missed.skipped if s.what == "Jacobian")
    assert "no position counts in all the samples" in why


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.first, self.head = nn.LayerNorm(6), nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x, *, gate):
        return self.head(torch.tanh(self.first(self.norm(x))) * gate)


def test_several_real_inputs_say_which_one():
    g = torch.Generator().manual_seed(0)
    x = Inputs((torch.randn(20, 6, generator=g),), {"gate": torch.rand(20, 1, generator=g)})
    model = Gated()
    found = diagnose(model, (x, torch.arange(20) % 3), samples=20).evidence
    assert found.jacobian.of == "from the first of 2 real-valued inputs (the others are held fixed) to the output"
    gate = found.case.x.kwargs["gate"][0]
    named = dict(model.named_parameters())
    jac = jacrev(lambda v: functional_call(model, named, (v,), {"gate": gate}))(found.case.x.first[0])
    assert found.jacobian.values[0] == pytest.approx(torch.linalg.svdvals(jac.detach()).tolist(), rel=1e-4)


class OneHot(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(VOCABULARY, 4)

    def forward(self, ids):
        return self.body(nn.functional.one_hot(ids, VOCABULARY).float()).sum(1)


def test_tokens_that_no_module_looks_up():
    found = diagnose(OneHot(), (ids(), ids()[:, 0] % 4), samples=24)
    assert found.evidence.jacobian is None
    why = next(s.why for s in found.skipped if s.what == "Jacobian")
    assert "no module takes them as they are and returns real numbers" in why
    assert "measure.jacobian(model, x, start=...)" in why


class Twice(Reader):
    def forward(self, ids):
        return self.tail(self.tokens(ids) + 0.1 * self.tokens(ids.flip(1)))


def test_an_embedding_that_is_used_twice():
    found = diagnose(Twice(last=True), (ids(), ids()[:, 0]), samples=24)
    why = next(s.why for s in found.skipped if s.what == "Jacobian")
    assert "start 'tokens' was called 2 times in the forward pass" in why


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("gpt2,n_layer=1,n_embd=8,n_head=2", "transformer.wte"),
        (
            "llama,num_hidden_layers=1,hidden_size=8,intermediate_size=8,num_attention_heads=2,num_key_value_heads=1",
            "model.embed_tokens",
        ),
        (
            "bert,num_hidden_layers=1,hidden_size=8,intermediate_size=8,num_attention_heads=2,head=masked-lm",
            "bert.embeddings.word_embeddings",
        ),
    ],
)
def test_transformers(name, start):
    pytest.importorskip("transformers")
    from isometry.nn import named_inputs, resolve_model

    torch.manual_seed(0)
    model = resolve_model(f"transformers:{name}", in_shape=(LENGTH,), classes=VOCABULARY).eval()
    found = diagnose(model, (ids(8), ids(8)), samples=8).evidence
    assert found.jacobian.start == start
    x = named_inputs(model, found.case.x.first[:1])
    table = model.get_input_embeddings().weight.detach()

    def logits(embedded):
        rest = {k: v for k, v in x.kwargs.items() if k != "input_ids"}
        return model(inputs_embeds=embedded[None], **rest).logits[0]

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        jac = torch.autograd.functional.jacobian(logits, table[x.kwargs["input_ids"][0]])
    wanted = torch.linalg.svdvals(jac.reshape(-1, jac.shape[-1] * LENGTH).double())
    assert found.jacobian.values[0][0] == pytest.approx(float(wanted[0]), rel=1e-3)


def test_a_model_in_a_wrapper_is_no_lookup():
    found = diagnose(nn.Sequential(OneHot()), (ids(), ids()[:, 0] % 4), samples=24)
    assert "no module takes them as they are" in next(s.why for s in found.skipped if s.what == "Jacobian")


def test_the_largest_eigenvalue_is_exact_where_labels_are_drawn():
    """Eight draws of five hundred labels overstate it many times; the diagnosis takes it by products."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(500, 8), nn.Linear(8, 500))
    x, y = torch.randint(500, (6, 4)), torch.randint(500, (6, 4))
    found = diagnose(model, (x, y))
    wanted = float(measure.curvature(model, x, y, kind="gauss-newton").top(1).eigenvalues[0])
    content = found.to_dict()["fisher"]
    assert content["kind"] == "monte-carlo"
    assert content["lambda_max"] == pytest.approx(wanted, rel=0.05)
    assert content["lambda_max_drawn"] > 3 * wanted
    assert content["effective_rank"] == pytest.approx(sum(content["eigenvalues"]) / content["lambda_max"])
    told = {f.code: f.message for f in found.findings}
    assert "(the trace by drawn labels)" in told["effective_rank"]
    assert "drawn" not in told["step_size"]


def test_where_products_do_not_settle_the_drawn_eigenvalue_is_named_an_overestimate(monkeypatch):
    monkeypatch.setattr("isometry.diagnosis._evidence.TOP_STEPS", 2)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(500, 8), nn.Linear(8, 500))
    found = diagnose(model, (torch.randint(500, (6, 4)), torch.randint(500, (6, 4))))
    content = found.to_dict()["fisher"]
    assert content["lambda_max"] == content["lambda_max_drawn"]
    why = next(s.why for s in found.skipped if s.what == "the exact largest eigenvalue")
    assert "2 products left a residual" in why
    assert "an overestimate, stands for it" in why
    told = {f.code: f.message for f in found.findings}
    assert "(of drawn labels, which overstate it)" in told["step_size"]
    assert "(by drawn labels, which understate it)" in told["effective_rank"]
