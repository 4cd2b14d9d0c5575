"""The textbook algorithms, written naively: one matrix at a time, polar factors by SVD, transport by projection."""

from __future__ import annotations

import torch


def sym(a):
    return (a + a.T) / 2


def project(q, v):
    return v - q @ sym(q.T @ v)


def polar(y):
    u, _, vh = torch.linalg.svd(y, full_matrices=False)
    return u @ vh


def gradient(q, g, metric):
    return g - q @ g.T @ q if metric == "canonical" else project(q, g)


def inner(q, v, metric):
    value = (v * v).sum()
    return value - ((q.T @ v) ** 2).sum() / 2 if metric == "canonical" else value


def sgd(w, s, slope, *, steps, lr, momentum=0.0, dampening=0.0, nesterov=False, metric="embedded", scale_lr=None):
    """Minimize by the textbook; w upright (n, p), slope(w) its Euclidean gradient; s moves if scale_lr is given."""
    q, m, ms = w / s, None, None
    for _ in range(steps):
        g = slope(s * q)
        g_q, g_s = s * g, (g * q).sum()
        grad = gradient(q, g_q, metric)
        m = grad if m is None else momentum * m + (1 - dampening) * grad
        step = grad + momentum * m if nesterov else m
        new = polar(q - lr * step)
        m = project(new, m)
        if scale_lr is not None:
            ms = g_s if ms is None else momentum * ms + (1 - dampening) * g_s
            s = s - scale_lr * (g_s + momentum * ms if nesterov else ms)
        q = new
    return s * q


def adam(
    w,
    s,
    slope,
    *,
    steps,
    lr,
    betas=(0.9, 0.999),
    eps=1e-8,
    amsgrad=False,
    metric="embedded",
    columns=False,
    factor=1.0,
    scale_lr=None,
):
    b1, b2 = betas
    q, m, v, most = w / s, torch.zeros_like(w), 0.0, 0.0
    ms = vs = top = torch.zeros((), dtype=w.dtype)
    for t in range(1, steps + 1):
        g = slope(s * q)
        g_q, g_s = s * g, (g * q).sum()
        grad = gradient(q, g_q, metric)
        m = b1 * m + (1 - b1) * grad
        v = b2 * v + (1 - b2) * ((grad**2).sum(0, keepdim=True) if columns else inner(q, grad, metric))
        most = torch.maximum(torch.as_tensor(most, dtype=w.dtype), v)
        root = ((most if amsgrad else v) / (1 - b2**t)) ** 0.5
        step = project(q, -lr * factor * (m / (1 - b1**t)) / (root + eps))
        new = polar(q + step)
        m = project(new, m)
        if scale_lr is not None:
            ms, vs = b1 * ms + (1 - b1) * g_s, b2 * vs + (1 - b2) * g_s**2
            top = torch.maximum(top, vs)
            s = s - scale_lr * (ms / (1 - b1**t)) / (((top if amsgrad else vs) / (1 - b2**t)) ** 0.5 + eps)
        q = new
    return s * q
