"""Contents to draw reports from: a sick net, a healthy one, nothing at all, and a hostile one."""

from __future__ import annotations

import copy
import functools
import json
import math
from typing import Any

import numpy as np

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(61)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def mean(function, q: float) -> float:
    return float(WEIGHTS @ function(math.sqrt(q) * NODES))


@functools.cache
def chi_grid() -> tuple[list[float], list[float], list[list[float]]]:
    """chi of tanh at its fixed point, by iteration, for a grid of standard deviations."""
    sigma_w, sigma_b = np.linspace(0.4, 2.4, 41).round(4), np.linspace(0.0, 0.6, 25).round(4)
    w2, b2 = sigma_w**2, sigma_b[:, None] ** 2
    q = np.ones((25, 41))
    for _ in range(300):
        q = w2 * (np.tanh(np.sqrt(q)[..., None] * NODES) ** 2 @ WEIGHTS) + b2
    slope = (1 - np.tanh(np.sqrt(q)[..., None] * NODES) ** 2) ** 2 @ WEIGHTS
    return sigma_w.tolist(), sigma_b.tolist(), (w2 * slope).tolist()


def layers(depth: int, sigma_w: float, sigma_b: float, q: float, rng: np.random.Generator) -> list[dict[str, Any]]:
    forward, slopes, correlations, c = [], [], [], 0.4
    for _ in range(depth):
        q = sigma_w**2 * mean(lambda h: np.tanh(h) ** 2, q) + sigma_b**2
        slopes.append(sigma_w**2 * mean(lambda h: (1 - np.tanh(h) ** 2) ** 2, q))
        forward.append(q)
        c = min(1.0, 1 - (1 - c) * min(slopes[-1], 1.0) * (1 - sigma_b**2 / max(q, 1e-12) * 0.5))
        correlations.append(c)
    gradient = [0.4]
    for slope in reversed(slopes[1:]):
        gradient.append(gradient[-1] * math.sqrt(slope))
    gradient.reverse()
    out = []
    for i in range(depth):
        noise = np.exp(0.12 * rng.standard_normal(2))
        out.append(
            {
                "name": f"layers.{2 * i}",
                "kind": "Linear",
                "depth": i + 1,
                "q": forward[i] * noise[0],
                "q_theory": forward[i],
                "correlation": float(min(1.0, correlations[i] + 0.01 * rng.standard_normal())),
                "correlation_theory": correlations[i],
                "gradient_norm": gradient[i] * noise[1],
                "gradient_theory": gradient[i],
                "dead": 0.0,
                "saturated": float(max(0.0, 0.01 * rng.standard_normal())),
                "nonfinite": 0,
            }
        )
    return out


def phase(before: tuple[float, float] | None, after: tuple[float, float] | None) -> dict[str, Any]:
    sigma_w, sigma_b, chi = chi_grid()
    line_w, line_b = [], []
    for q in np.geomspace(1e-3, 2.0, 40):
        w2 = 1 / mean(lambda h: (1 - np.tanh(h) ** 2) ** 2, q)
        b2 = q - w2 * mean(lambda h: np.tanh(h) ** 2, q)
        line_w.append(math.sqrt(w2))
        line_b.append(math.sqrt(max(b2, 0.0)))

    def point(pair):
        return None if pair is None else {"sigma_w": pair[0], "sigma_b": pair[1]}

    return {
        "activation": "tanh",
        "sigma_w": sigma_w,
        "sigma_b": sigma_b,
        "chi": chi,
        "critical": {"sigma_w": line_w, "sigma_b": line_b},
        "before": point(before),
        "after": point(after),
    }


def sick() -> dict[str, Any]:
    """A 100-layer tanh perceptron as PyTorch makes it, on digits: what the demo diagnoses."""
    return copy.deepcopy(_sick())


@functools.cache
def _sick() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    sigma_w, sigma_b = 1 / math.sqrt(3), 0.0577
    depth = layers(100, sigma_w, sigma_b, 1.0, rng)
    singular = np.exp(rng.normal(-62, 1.6, size=(16, 100))).tolist()
    spectrum = np.sort(np.exp(rng.normal(-14, 4.5, size=900)))[::-1]
    spectrum[0] = 2.31
    grid = np.linspace(0.5, 1.272, 120)
    density = np.sqrt(np.clip((grid - 0.78) * (1.272 - grid), 0, None)) * 8
    steps = np.arange(300)
    flat = 2.303 + 0.02 * rng.standard_normal(300)
    learned = 0.12 + 2.2 * np.exp(-steps / 40) + 0.06 * rng.standard_normal(300) * np.exp(-steps / 200)
    return {
        "schema": 1,
        "isometry": "0.1.0",
        "created": "2026-01-15T10:24:31+00:00",
        "subject": {
            "model": "mlp:depth=100,width=100,activation=tanh",
            "data": "digits",
            "parameters": 1007410,
            "layers": 101,
            "samples": 100,
            "classes": 10,
            "likelihood": "categorical",
            "activation": "tanh",
            "dtype": "float32",
            "device": "cpu",
        },
        "verdict": "error",
        "findings": [
            {
                "severity": "warning",
                "code": "fisher.effective-rank",
                "message": "One direction takes nearly all of the loss's curvature.",
                "value": 1.02,
                "expected": 9.0,
                "unit": None,
                "remedy": "Apply the prescription; it spreads the curvature.",
                "where": [],
            },
            {
                "severity": "error",
                "code": "gradient.vanishing",
                "message": "The gradient falls by 24 powers of ten on its way from the last layer to the first.",
                "value": 1.82,
                "expected": 100.0,
                "unit": "layers per e-fold",
                "remedy": "Initialize at the critical point: sigma_w = 1.0157, sigma_b = 0.0022 with orthogonal "
                "weights (`iso.init.critical_(model)`).",
                "where": [f"layers.{2 * i}" for i in range(100)],
            },
            {
                "severity": "error",
                "code": "correlation.collapse",
                "message": "After 11 layers all inputs look the same to the network; it has 100.",
                "value": 100.0,
                "expected": 10.9,
                "unit": "layers",
                "remedy": "Move to the critical line, or use fewer than 11 layers.",
                "where": ["layers.22", "layers.24", "layers.26"],
            },
            {
                "severity": "error",
                "code": "jacobian.vanishing",
                "message": "The input-output Jacobian is zero to rounding.",
                "value": 3.4e-26,
                "expected": 1.272,
                "unit": "largest singular value",
                "remedy": "Same as above.",
                "where": [],
            },
            {
                "severity": "warning",
                "code": "precision.underflow",
                "message": "In bfloat16 the gradient of 61 layers underflows to zero.",
                "value": 4.2e-25,
                "expected": 1.2e-38,
                "unit": None,
                "remedy": None,
                "where": ["layers.0"],
            },
            {
                "severity": "info",
                "code": "inputs.scale",
                "message": "The inputs' scale is off q* by a factor of 1.4.",
                "value": 0.0219,
                "expected": 0.015625,
                "unit": None,
                "remedy": "Multiply the inputs by 0.845.",
                "where": [],
            },
        ],
        "signal": {
            "layers": depth,
            "q_star": 0.0049,
            "xi_c": 0.92,
            "xi_grad": 0.92,
            "measured_efold_forward": 0.94,
            "measured_efold_gradient": 0.95,
        },
        "jacobian": {
            "singular_values": singular,
            "start": None,
            "stop": None,
            "inputs": 16,
            "s_max": max(max(row) for row in singular),
            "s_min": min(min(row) for row in singular),
            "mean_square": 1e-50,
            "law": {
                "s": grid.tolist(),
                "density": density.tolist(),
                "s_max": 1.272,
                "mean_square": 1.0,
                "variance": 0.03,
                "weights": "orthogonal",
            },
        },
        "fisher": {
            "eigenvalues": spectrum.tolist(),
            "kind": "true",
            "likelihood": "categorical",
            "params": "all",
            "lambda_max": 2.31,
            "max_step_size": 2 / 2.31,
            "effective_rank": 1.02,
            "condition": 2.8e6,
            "bound_rigorous": 4.4,
            "hidden": {"lambda_max": 0.72, "bound_theorem": 0.011},
            "coverage": {
                "parameters": 1007410,
                "closed_form": 0.9,
                "sample_by_sample": 0.0999,
                "unused": 0.0001,
                "not_measurable": 0.0,
                "uncovered": [
                    *(
                        {
                            "name": f"layers.{2 * i}.scale",
                            "layer": "Rescaled",
                            "how": "sample by sample",
                            "size": 10064,
                            "share": 0.00999,
                        }
                        for i in range(10)
                    ),
                    {"name": "spare", "layer": "Net", "how": "unused", "size": 100, "share": 0.0001},
                ],
            },
        },
        "phase": phase((sigma_w, sigma_b), (1.0157, 0.0022)),
        "prescription": {
            "summary": "orthogonal weights at the critical point sigma_w = 1.0157, sigma_b = 0.0022 (q* = 1/64), "
            "inputs multiplied by 0.845",
            "changes": [
                change
                for i in range(100)
                for change in (
                    {"name": f"layers.{2 * i}.weight", "action": "set", "detail": "orthogonal, sigma_w = 1.0157"},
                    {"name": f"layers.{2 * i}.bias", "action": "set", "detail": "gaussian, sigma_b = 0.0022"},
                )
            ]
            + [{"name": "layers.200.weight", "action": "set", "detail": "orthogonal, gain 1.0 (output layer)"}],
            "input_scale": 0.845,
            "notes": ["The activation `tanh` was recognised, so the critical point is analytic."],
        },
        "proof": {
            "steps": 300,
            "optimizer": "sgd",
            "batch_size": 100,
            "chance": math.log(10),
            "before": {"lr": 0.1, "loss": flat.tolist(), "accuracy": 0.101},
            "after": {"lr": 0.1, "loss": learned.tolist(), "accuracy": 0.953},
            "verdict": "After 300 steps the prescribed net reaches 95.3 % accuracy; the default one stays at 10.1 %",
        },
        "skipped": [{"what": "Fisher by layer", "why": "needs 1.2 GB, more than the budget of 1 GB"}],
        "cost": {
            "seconds": {"signal": 0.21, "jacobian": 0.84, "fisher": 1.52, "theory": 0.31, "proof": 14.2},
            "total": 17.1,
        },
    }


def healthy() -> dict[str, Any]:
    """A critical orthogonal net of 20 layers, in float64 digits that must be shortened."""
    rng = np.random.default_rng(1)
    content = sick()
    content["subject"] |= {"model": "mlp:depth=20,width=100,activation=tanh", "layers": 21, "parameters": 199410}
    content["verdict"] = "healthy"
    content["findings"] = []
    content["signal"] |= {
        "layers": layers(20, 1.0157, 0.0022, 1 / 64, rng),
        "xi_c": 400.0,
        "xi_grad": 4000.0,
        "measured_efold_forward": 380.0,
        "measured_efold_gradient": 2000.0,
    }
    singular = np.clip(rng.normal(0.98, 0.07, size=1600), 0.7, 1.16)
    content["jacobian"] |= {"singular_values": singular.tolist(), "s_max": float(singular.max()), "inputs": 16}
    content["fisher"]["eigenvalues"] = np.sort(np.exp(rng.normal(-4, 1.5, size=900)))[::-1].tolist()
    content["fisher"]["hidden"] = {"lambda_max": 2.0, "bound_theorem": 3.1}
    content["phase"] = phase((1.0157, 0.0022), None)
    content["prescription"] = None
    content["proof"] = None
    content["skipped"] = [
        {"what": "prescription", "why": "there is nothing to repair"},
        {"what": "proof", "why": "run with --prove STEPS"},
    ]
    return content


def empty() -> dict[str, Any]:
    """Nothing was measured: every section null."""
    keys = ("signal", "jacobian", "fisher", "phase", "prescription", "proof", "cost", "isometry", "created", "verdict")
    subject = dict.fromkeys(sick()["subject"])
    return {"schema": 1, "subject": subject, "findings": [], "skipped": []} | dict.fromkeys(keys)


def nulled(value: Any) -> Any:
    """The same structure with every number null."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return None
    if isinstance(value, list):
        return [nulled(item) for item in value]
    return {key: item if key == "schema" else nulled(item) for key, item in value.items()}


HOSTILE = '</script><script>window.hacked=1</script><img src=x onerror="window.hacked=2">&quot;\'`[bold]\u202e\x1b[31m'


def hostile() -> dict[str, Any]:
    """Every string of the sick content is an attack, and some are very long words."""

    def poisoned(value: Any, key: str = "") -> Any:
        if isinstance(value, str):
            return value if key in {"severity", "verdict"} and value in {"error", "warning", "info"} else HOSTILE
        if isinstance(value, list):
            return [poisoned(item) for item in value]
        if isinstance(value, dict):
            return {name: poisoned(item, name) for name, item in value.items()}
        return value

    content = poisoned(sick())
    content["subject"]["model"] = HOSTILE + "w" * 300
    content["subject"]["data"] = '<a href="https://example.org/x">' + "%{y}" * 40
    content["cost"]["seconds"] = {HOSTILE: 1.0}
    return json.loads(json.dumps(content))
