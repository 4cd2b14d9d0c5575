"""Low-rank optimizers one matrix at a time, as their papers state them, with dense projections and rotations."""

from __future__ import annotations

import math

import torch


def cosines(n):
    """Q = C^T, by the defining sum."""
    q = torch.empty(n, n, dtype=torch.float64)
    for i in range(n):
        for j in range(n):
            scale = math.sqrt(1 / n) if i == 0 else math.sqrt(2 / n)
            q[j, i] = scale * math.cos(math.pi * i * (2 * j + 1) / (2 * n))
    return q


def chosen_right(a, q, rank, p):
    """Q_I for a tall matrix: the columns of A Q of largest p-norm, in order; the first ones among equals."""
    norms = [float(torch.linalg.vector_norm(a @ q[:, j], p)) for j in range(q.shape[1])]
    return sorted(sorted(range(len(norms)), key=lambda j: (-norms[j], j))[:rank])


class TextbookDCTAdamW:
    """The sheet's steps 0 to 7 of one matrix."""

    def __init__(self, q, rank, lr, betas, eps, weight_decay, error_feedback, refresh, rotate, p):
        self.q, self.rank, self.lr, self.betas, self.eps = q, rank, lr, betas, eps
        self.wd, self.feedback, self.refresh, self.rotate, self.p = weight_decay, error_feedback, refresh, rotate, p
        self.t, self.error, self.m, self.v, self.columns = 0, 0.0, None, None, None

    def step(self, w, grad):
        self.t += 1
        left = w.shape[0] < w.shape[1]
        w = w * (1 - self.lr * self.wd)
        a = grad + self.error if self.feedback else grad
        previous = self.columns
        if self.t == 1 or self.t % self.refresh == 0:
            self.columns = chosen_right(a.T if left else a, self.q, self.rank, self.p)
        qi = self.q[:, self.columns]
        low = qi.T @ a if left else a @ qi
        if self.feedback:
            self.error = a - (qi @ low if left else low @ qi.T)
        if self.t == 1:
            self.m, self.v = torch.zeros_like(low), torch.zeros_like(low)
        elif self.t % self.refresh == 0 and self.rotate:
            turn = self.q[:, previous].T @ qi
            self.m = turn.T @ self.m if left else self.m @ turn
            self.v = (turn.T @ self.v if left else self.v @ turn).abs()
        b1, b2 = self.betas
        self.m = b1 * self.m + (1 - b1) * low
        self.v = b2 * self.v + (1 - b2) * low * low
        u = (self.m / (1 - b1**self.t)) / ((self.v / (1 - b2**self.t)).sqrt() + self.eps)
        return w - self.lr * (qi @ u if left else u @ qi.T)


def polar_factor(matrix):
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u @ vh


class TextbookTrion:
    """The sheet's steps 1 to 5 of one matrix, with the polar factor itself."""

    def __init__(self, q, rank, lr, momentum, weight_decay, factor, p):
        self.q, self.rank, self.lr, self.mu, self.wd, self.factor, self.p = (
            q,
            rank,
            lr,
            momentum,
            weight_decay,
            factor,
            p,
        )
        self.buffer = 0.0

    def step(self, w, grad):
        left = w.shape[0] < w.shape[1]
        b = self.buffer + grad
        qi = self.q[:, chosen_right(b.T if left else b, self.q, self.rank, self.p)]
        low = qi.T @ b if left else b @ qi
        self.buffer = b - (1 - self.mu) * (qi @ low if left else low @ qi.T)
        o = polar_factor(low)
        back = qi @ o if left else o @ qi.T
        return w * (1 - self.lr * self.wd) - self.lr * self.factor(*w.shape) * back


class TextbookDion:
    """One power iteration a step, by Gram-Schmidt and column norms."""

    def __init__(self, right, lr, momentum, weight_decay, factor):
        self.right, self.lr, self.mu, self.wd, self.factor, self.buffer = right, lr, momentum, weight_decay, factor, 0.0

    def step(self, w, grad):
        b = self.buffer + grad
        columns = []
        for y in (b @ self.right).T:
            for c in (*columns, *columns):  # twice is enough
                y = y - (c @ y) * c
            columns.append(y / y.norm())
        left = torch.stack(columns, dim=1)
        r = b.T @ left
        self.buffer = b - (1 - self.mu) * left @ r.T
        self.right = r / r.norm(dim=0)
        return w * (1 - self.lr * self.wd) - self.lr * self.factor(*w.shape) * left @ self.right.T
