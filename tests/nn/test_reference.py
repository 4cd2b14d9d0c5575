import pytest
import torch
from torch import nn

from isometry.nn import REFERENCE_MODELS, Residual, reference_model

SPECS = [
    ("mlp", (64,)),
    ("mlp:depth=3,norm=layer,residual=true", (1, 8, 8)),
    ("mlp:depth=2,norm=batch,bias=false", (8,)),
    ("cnn:depth=2", (1, 8, 8)),
    ("cnn:depth=2,pool=false,stride=2,norm=batch,padding=circular", (8, 9)),
    ("cnn:depth=2,norm=layer,kernel=5", (3, 8, 8)),
    ("resnet:depth=2", (64,)),
    ("resnet:depth=2,norm=batch", (1, 8, 8)),
    ("resnet:depth=2,norm=layer,branch_scale=0.5", (64,)),
    ("resnet:depth=2,layers=linear", (1, 8, 8)),
    ("rnn:activation=relu", (8, 8)),
    ("gru", (64,)),
    ("lstm:depth=2", (1, 8, 8)),
    ("transformer", (1, 8, 8)),
    ("transformer:norm=post", (8, 4)),
    ("transformer:norm=none,activation=sin", (9,)),
]


@pytest.mark.parametrize(("spec", "in_shape"), SPECS)
def test_every_kind_maps_inputs_to_logits(spec, in_shape):
    model = reference_model(spec, in_shape=in_shape, classes=7)
    logits = model(torch.randn(5, *in_shape))
    assert logits.shape == (5, 7)
    logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_the_specs_above_cover_every_kind():
    assert {spec.partition(":")[0] for spec, _ in SPECS} | {"gpt"} == set(REFERENCE_MODELS)  # test_gpt.py


def test_tokens():
    model = reference_model("transformer:vocabulary=11", in_shape=(7,), classes=3)
    assert isinstance(model.embedding, nn.Embedding)
    assert model(torch.randint(0, 11, (2, 7))).shape == (2, 3)


def test_depth_counts_hidden_layers_and_names_read_well():
    model = reference_model("mlp:depth=4,width=6,activation=relu", in_shape=(5,), classes=3)
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    assert names == ["hidden.0.linear", "hidden.1.linear", "hidden.2.linear", "hidden.3.linear", "output"]
    assert isinstance(model.hidden[3].activation, nn.ReLU)


def test_default_initialization_is_torchs():
    model = reference_model("mlp:depth=1,width=50", in_shape=(400,), classes=3)
    weight = model.hidden[0].linear.weight
    assert weight.abs().max() <= 1 / 400**0.5  # U(-1/sqrt(fan_in), 1/sqrt(fan_in))
    assert weight.std().item() == pytest.approx(1 / 400**0.5 / 3**0.5, rel=0.05)


def test_a_generator_decides_the_draw_and_leaves_the_global_one_alone():
    before = torch.random.get_rng_state()
    first, again = (
        reference_model("cnn:depth=2", in_shape=(8, 8), classes=3, generator=torch.Generator().manual_seed(5))
        for _ in range(2)
    )
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))


def test_branch_scale_multiplies_the_branch():
    block = Residual(nn.Linear(3, 3, bias=False), scale=0.25)
    x = torch.randn(4, 3)
    torch.testing.assert_close(block(x), x + 0.25 * x @ block.branch.weight.T)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mpl:depth=3", "unknown reference model 'mpl'; did you mean 'mlp'?"),
        ("perceptron", "known ones: cnn, gpt, gru, lstm, mlp, resnet, rnn, transformer"),
        ("mlp:dept=3", "unknown option of mlp 'dept'; did you mean 'depth'?"),
        ("mlp:depth", "'depth' in 'mlp:depth' is not option=value; write e.g. mlp:depth=10"),
        ("mlp:depth=", "is not option=value"),
        ("mlp:depth=2,depth=3", "option 'depth' is given twice"),
        ("mlp:depth=0", "mlp: depth must be a whole number >= 1, got 0"),
        ("mlp:width=-3", "mlp: width must be a whole number >= 1, got -3"),
        ("mlp:depth=2.5", "mlp: depth must be a whole number >= 1, got '2.5'"),
        ("mlp:bias=1", "mlp: bias must be true or false, got '1'"),
        ("mlp:norm=bat", "mlp: norm must be one of none, layer, batch, got 'bat'"),
        ("mlp:activation=tahn", "unknown activation 'tahn'; did you mean 'tanh'"),
        ("resnet:branch_scale=nan", "resnet: branch_scale must be a number >= 0, got nan"),
        ("cnn:depth=2", "cnn needs images, in_shape (C, H, W) or (H, W), got (8,)"),
        ("transformer:heads=5", "heads must divide width, got heads=5 and width=32"),
    ],
)
def test_errors_say_what_to_write(spec, message):
    with pytest.raises(ValueError) as caught:
        reference_model(spec, in_shape=(8,), classes=3)
    assert message in str(caught.value)


def test_errors_about_shape_and_classes():
    with pytest.raises(ValueError, match="in_shape must have at least one axis and none empty, got \\(0, 3\\)"):
        reference_model("mlp", in_shape=(0, 3), classes=3)
    with pytest.raises(ValueError, match="classes must be a whole number >= 1, got 0"):
        reference_model("mlp", in_shape=(3,), classes=0)
    with pytest.raises(ValueError, match="kernel must be odd, got 2"):
        reference_model("cnn:kernel=2", in_shape=(8, 8), classes=3)
    with pytest.raises(TypeError, match="spec must be a string such as 'mlp:depth=3', got int"):
        reference_model(3, in_shape=(3,), classes=2)


def test_a_model_that_no_memory_holds_is_refused():
    with pytest.raises(ValueError, match=r"'mlp:depth=2,width=100000000' is larger than this machine's memory; take"):
        reference_model("mlp:depth=2,width=100000000", in_shape=(100000000,), classes=10)
    with pytest.raises(ValueError, match="is larger than this machine's memory"):
        reference_model(f"mlp:depth=2,width={10**22}", in_shape=(3,), classes=10)
