"""Follow signal and Fisher information in a training loop of your own, and draw the page."""

import torch
from torch import nn

import isometry as iso
from isometry.training import Probe

STEPS = 300

data = iso.data.load("digits")
torch.manual_seed(0)
model = iso.nn.reference_model("mlp:depth=4,width=64,activation=tanh", in_shape=data.shape, classes=data.classes)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)


def sharpest_layer(model, _x, _y):
    """A measure of your own: any function of model and batch that returns numbers by name."""
    norms = [torch.linalg.matrix_norm(p.detach(), ord=2) for p in model.parameters() if p.ndim == 2]
    return {"spectral_norm": max(norms)}


probe = Probe(
    model,
    data.inputs[:64],
    data.targets[:64],
    measures={"signal": True, "fisher": True, "weights": sharpest_layer},
    max_overhead=None,  # measure whenever it is due; a training of hours keeps the default, at most 5 % of its time
    path="probe_bare_loop.jsonl",
)
with probe.start(step=0):  # 0: begin the file anew if it is there
    for _ in range(STEPS):
        index = torch.randint(len(data.inputs), (100,))
        loss = nn.functional.cross_entropy(model(data.inputs[index]), data.targets[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        probe.step(loss)

print(probe.history)
print(f"overhead {probe.overhead:.1%}; draw the page with: isometry report probe_bare_loop.jsonl --out report")
