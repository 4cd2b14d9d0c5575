"""References to models of timm; what needs the library runs by ``make test-timm``, in an environment of its own."""

import importlib.util

import pytest
import torch

from isometry import measure
from isometry._base import BadReferenceError
from isometry.diagnosis import diagnose
from isometry.nn import resolve_model

needs_timm = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")


@pytest.mark.skipif(importlib.util.find_spec("timm") is not None, reason="timm is installed")
def test_without_the_library():
    with pytest.raises(BadReferenceError, match=r"needs the timm library.*pip install isometry\[timm\]"):
        resolve_model("timm:resnet18", in_shape=(3, 32, 32), classes=10)


@pytest.mark.timm
@needs_timm
@pytest.mark.parametrize(
    "name", ["resnet18", "convnext_atto", "vit_tiny_patch16_224,img_size=32", "mobilenetv3_small_050"]
)
def test_spectrum_has_the_trace_of_the_gradients(name):
    torch.manual_seed(0)
    model = resolve_model(f"timm:{name}", in_shape=(3, 32, 32), classes=4).double().eval()
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    found = measure.fisher(model, x)
    total = 0.0
    for sample in x:  # the trace by its definition: sum_c p_c |grad log p_c|^2, averaged
        out = model(sample[None]).log_softmax(1)[0]
        for value in out:
            grads = torch.autograd.grad(value, list(model.parameters()), retain_graph=True, allow_unused=True)
            square = sum(float(g.square().sum()) for g in grads if g is not None)
            total += float(value.detach().exp()) * square / len(x)
    assert found.trace == pytest.approx(total, rel=1e-6)


@pytest.mark.timm
@needs_timm
def test_diagnosis():
    torch.manual_seed(0)
    model = resolve_model("timm:resnet18", in_shape=(1, 32, 32), classes=3)
    x, y = torch.randn(12, 1, 32, 32), torch.arange(12) % 3
    assert diagnose(model, (x, y)).verdict in ("healthy", "warning")


@pytest.mark.timm
@needs_timm
@pytest.mark.parametrize(
    ("reference", "shape", "message"),
    [
        ("timm:resnet17", (3, 32, 32), "unknown model of timm 'resnet17'"),
        ("timm:resnet18", (64,), r"takes images \(channels, height, width\), the data are \(64,\)"),
        ("timm:resnet18,depth=3", (3, 32, 32), "TypeError"),
    ],
)
def test_refusals(reference, shape, message):
    with pytest.raises(BadReferenceError, match=message):
        resolve_model(reference, in_shape=shape, classes=3)
