"""Small networks with every kind of parameter and every kind of use, each with a batch."""

import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.inp, self.a, self.out = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x):
        h = self.inp(x)
        y = self.a(torch.tanh(h))
        y += h  # in place, on an output that was recorded
        return self.out(y.relu_())


class Overwriting(nn.Module):
    """Overwrites the input of a layer after it: that layer's weight could not be trained like that."""

    def __init__(self, in_place=True):
        super().__init__()
        self.inp, self.a, self.out = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.in_place = in_place

    def forward(self, x):
        h = self.inp(x)
        y = torch.tanh(self.a(h))
        h = h.add_(y) if self.in_place else h + y
        return self.out(h)


class Reused(nn.Module):
    """One layer called three times, its weight shared with a second layer that has its own bias."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.b.weight = self.a.weight

    def forward(self, x):
        for _ in range(3):
            x = x + torch.tanh(self.a(x))
        return self.out(torch.tanh(self.b(x)))


class Tied(nn.Module):
    """Embedding and head share their weight."""

    def __init__(self, functional=False):
        super().__init__()
        self.embed = nn.Embedding(6, 4, padding_idx=0)
        self.mix, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embed.weight
        self.functional = functional

    def forward(self, x):
        h = self.norm(torch.tanh(self.mix(self.embed(x))) + self.embed(x)).mean(1)
        return nn.functional.linear(h, self.embed.weight) if self.functional else self.head(h)


class Raw(nn.Module):
    """Parameters that no module of torch's owns."""

    def __init__(self):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.tensor(1.5)), nn.Parameter(torch.zeros(5))
        self.unused = nn.Parameter(torch.ones(2))
        self.inp, self.out = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.out(torch.tanh(self.inp(x) * self.scale + self.shift))


class Recurrent(nn.Module):
    def __init__(self, cell=nn.GRU):
        super().__init__()
        self.cell, self.out = cell(3, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        return self.out(self.cell(x)[0][:, -1])


class SequenceFirst(nn.Module):
    """Attention over (time, sample, feature), with a position embedding that knows no samples."""

    def __init__(self):
        super().__init__()
        self.inp, self.where = nn.Linear(3, 4), nn.Embedding(5, 4)
        self.block = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0)
        self.out = nn.Linear(4, 3)

    def forward(self, x):
        h = self.inp(x).transpose(0, 1)
        h = h + self.where(torch.arange(len(h))).unsqueeze(1)
        return self.out(self.block(h).mean(0))


class Merged(nn.Module):
    """Samples and positions share one dimension, in either order."""

    def __init__(self, positions_first):
        super().__init__()
        self.inp, self.norm, self.out = nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 3)
        self.positions_first = positions_first

    def forward(self, x):
        n, t, _ = x.shape
        h = x.transpose(0, 1) if self.positions_first else x
        h = torch.tanh(self.norm(self.inp(h.reshape(n * t, 3))))
        h = h.view(t, n, 4).transpose(0, 1) if self.positions_first else h.view(n, t, 4)
        return self.out(h[:, -1] + h[:, 0] ** 2)


class UsedTwice(nn.Module):
    """A weight that its own module uses, and other code as well."""

    def __init__(self):
        super().__init__()
        self.a, self.out = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.out(torch.tanh(self.a(x)) @ self.a.weight)


class DeadBranch(nn.Module):
    """One layer's result is thrown away, another's is detached."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        self.b(x)
        return self.out(torch.tanh(self.a(x)) + self.c(x).detach())


def _trained(norm):
    norm.running_mean.uniform_(-0.5, 0.5)
    norm.running_var.uniform_(0.5, 2.0)
    return norm


def cases():
    """Build everything anew: name -> (model, batch, parameters on the general route)."""
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 6), nn.ReLU(inplace=True), nn.Linear(6, 4))
    cnn = nn.Sequential(
        nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2),
        nn.ReLU(inplace=True),
        nn.GroupNorm(2, 6),
        nn.Conv2d(6, 4, 3, padding="same", padding_mode="circular", dilation=2),
        _trained(nn.BatchNorm2d(4)),
        nn.Conv2d(4, 4, 1, groups=4, bias=False),
        nn.Flatten(),
        nn.Linear(64, 3),
    )
    line = nn.Sequential(
        nn.Conv1d(2, 4, 3, padding=2, padding_mode="reflect"),
        nn.InstanceNorm1d(4, affine=True),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(28, 3),
    )
    cube = nn.Sequential(
        nn.Conv3d(2, 3, 2, stride=(1, 2, 1)), _trained(nn.BatchNorm3d(3)), nn.Tanh(), nn.Flatten(), nn.Linear(36, 3)
    )
    positions = nn.Sequential(
        nn.Linear(3, 4), nn.RMSNorm(4), nn.Tanh(), nn.LayerNorm((5, 4)), nn.Flatten(), nn.Linear(20, 3)
    )
    features = nn.Sequential(nn.Linear(4, 6), _trained(nn.BatchNorm1d(6)), nn.Tanh(), nn.Linear(6, 3))
    parametrized = nn.Sequential(weight_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3))
    recurrent = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    attention = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
    return {
        "mlp": (mlp, torch.randn(6, 4), ()),
        "one sample": (mlp, torch.randn(1, 4), ()),
        "two samples": (mlp, torch.randn(2, 4), ()),
        "cnn": (cnn, torch.randn(3, 4, 8, 8), ()),
        "conv1d": (line, torch.randn(4, 2, 5), ()),
        "conv3d": (cube, torch.randn(3, 2, 3, 4, 4), ()),
        "positions": (positions, torch.randn(4, 5, 3), ()),
        "batch norm 1d": (features, torch.randn(5, 4), ()),
        "residual, in place": (Residual(), torch.randn(5, 4), ()),
        "reused and tied": (Reused(), torch.randn(4, 4), ()),
        "tied head": (Tied(), torch.randint(0, 6, (5, 4)), ()),
        "tied by a function": (Tied(functional=True), torch.randint(0, 6, (5, 4)), ("embed.weight",)),
        "raw parameters": (Raw(), torch.randn(5, 4), ("scale", "shift")),
        "gru": (Recurrent(), torch.randn(4, 5, 3), tuple(f"cell.{n}" for n in recurrent)),
        "lstm": (Recurrent(nn.LSTM), torch.randn(4, 5, 3), tuple(f"cell.{n}" for n in recurrent)),
        "attention": (
            SequenceFirst(),
            torch.randn(5, 5, 3),  # as many samples as positions
            ("where.weight", *(f"block.self_attn.{n}" for n in attention)),
        ),
        "merged, samples first": (Merged(False), torch.randn(4, 5, 3), ()),
        "merged, positions first": (Merged(True), torch.randn(5, 3, 3), ()),
        "used elsewhere too": (UsedTwice(), torch.randn(5, 4), ("a.weight",)),
        "dead branch": (DeadBranch(), torch.randn(5, 4), ()),
        "parametrized": (
            parametrized,
            torch.randn(5, 4),
            ("0.parametrizations.weight.original0", "0.parametrizations.weight.original1"),
        ),
    }


def case(name):
    """Build one case in float64 and eval mode."""
    model, x, general = cases()[name]
    return model.double().eval(), x.double() if x.is_floating_point() else x, general
