"""The Fisher matrix by its definition, sample by sample with torch.func: slow, dense, and obviously right."""

import warnings

import torch
from torch.func import functional_call, jacrev


def jacobians(model, x, names=None):
    """One dense Jacobian (outputs, parameters) per sample; tied parameters once, under their first name."""
    parameters = {n: p.detach() for n, p in model.named_parameters() if names is None or n in names}
    found = []
    for sample in x:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="There is a performance drop")
            parts = jacrev(lambda p, s=sample: functional_call(model, p, (s.unsqueeze(0),))[0].flatten())(parameters)
        found.append(torch.cat([parts[n].detach().reshape(len(parts[n]), -1) for n in parameters], 1))
    return found


def hessians(out, likelihood):
    if likelihood == "gaussian":
        return [torch.eye(o.numel(), dtype=o.dtype) for o in out]
    return [torch.diag(p) - torch.outer(p, p) for p in out.softmax(1)]


def dense_fisher(model, x, likelihood="categorical", names=None):
    """G = (1/N) sum_n J_n^T H_n J_n."""
    with torch.no_grad():
        out = model(x.clone())
    rows = jacobians(model, x, names)
    return sum(j.T @ h @ j for j, h in zip(rows, hessians(out, likelihood), strict=True)) / len(x)


def dense_empirical(model, x, residuals, names=None):
    """G = (1/N) sum_n g_n g_n^T with g_n = J_n^T r_n."""
    rows = jacobians(model, x, names)
    gradients = torch.stack([j.T @ r.flatten() for j, r in zip(rows, residuals, strict=True)])
    return gradients.T @ gradients / len(x)


def spectrum(matrix):
    return torch.linalg.eigvalsh(matrix).flip(0)


def check_spectrum(values, matrix, tolerance=1e-10):
    """The values are the leading eigenvalues of the matrix, and what they leave out is zero."""
    wanted = spectrum(matrix)
    scale = float(wanted[0])
    assert scale > 0
    assert len(values) <= len(wanted)
    assert torch.allclose(values, wanted[: len(values)], rtol=0, atol=tolerance * scale)
    assert float(wanted[len(values) :].abs().sum()) <= tolerance * scale
