"""Sokół and Park (2020): Jacobian against theory, Fisher-Jacobian link, bounds, conditioning, and training.

Nets are tanh perceptrons at criticality, W^l = sigma_w Q with Haar Q, b ~ N(0, sigma_b^2), in float64; inputs are
centred images, each scaled so that it reaches q* at the first layer. Every quantity is one number, or a series over
q*, per seed; a seed draws the weights and the images. Training on manifolds is in manifold_training.py.
"""

from __future__ import annotations

from typing import Literal

import torch

import isometry as iso
from isometry.papers import Evidence, collect
from isometry.papers.sokol_park import manifold_training

DATASETS = {"smoke": ("digits",), "full": ("digits", "fashion-mnist")}
JACOBIAN_SIZE = {"smoke": (200, 30), "full": (400, 50)}  # width, layers spanned
FISHER_SIZE = {"smoke": (48, 20, 30), "full": (64, 40, 60)}  # width, hidden layers, samples
Q_JACOBIAN, Q_FISHER = (9e-4, 1 / 64, 1 / 2), (1e-4, 9e-4, 1 / 64, 1 / 2, 8.0)  # the latter's first three: "small"
Weights = Literal["orthogonal", "gaussian"]
KINDS: tuple[Weights, ...] = ("orthogonal", "gaussian")
Laws = dict[tuple[float, Weights], iso.theory.JacobianLaw]
Measured = dict[str, float | list[float]]


def run(scale: str, seeds: tuple[int, ...]) -> Evidence:
    """Measure all claims; at the paper's sizes those on training alone.

    Args:
        scale: "smoke" (digits), "full" (digits and Fashion-MNIST) or "paper" (Fashion-MNIST).
        seeds: Seeds of weights and images.

    Returns:
        The evidence.
    """
    if scale == "paper":
        return manifold_training.evidence(scale, seeds)
    width, depth = JACOBIAN_SIZE[scale]
    laws = {
        (q, k): iso.theory.jacobian_law("tanh", depth=depth, q_star=q, weights=k) for q in Q_JACOBIAN for k in KINDS
    }
    images = {name: iso.data.load(name) for name in DATASETS[scale]}

    def one_seed(seed: int) -> Measured:
        found: Measured = {}
        for name, data in images.items():
            measured = jacobians(data, width, depth, laws, seed) | fishers(data, *FISHER_SIZE[scale], seed)
            found |= {f"{name}/{quantity}": value for quantity, value in measured.items()}
        return found | manifold_training.measure(scale, seed)

    evidence = collect(scale, seeds, one_seed, datasets=list(images), axes=manifold_training.axes(scale))
    return evidence.with_pooled(**{key: value for name in images for key, value in links(evidence, name).items()})


def jacobians(data: iso.data.Dataset, width: int, depth: int, laws: Laws, seed: int) -> Measured:
    """Claim 1: singular values of the Jacobian through ``depth`` square layers, at one input, against their law.

    Returns:
        Series over q*, and the numbers that the claims name.
    """
    found: dict[str, list[float]] = {}
    misfit = []  # of Gaussian weights to the orthogonal law: the control
    for (q, kind), law in laws.items():
        x, _, model = critical_net(data, width, depth + 1, q, kind, 1, seed)
        spectrum = iso.measure.jacobian(model, x, start="hidden.0", stop=f"hidden.{depth}").spectrum()
        s_max = float(spectrum.s_max)
        for what, value in {
            "s_max": s_max,
            "s_max_error": abs(s_max / law.s_max - 1),
            "mean_square_error": abs(float(spectrum.mean_square) - 1),
            "variance": float(spectrum.variance),
            "variance_predicted": law.variance,
        }.items():
            found.setdefault(f"{kind}/{what}", []).append(value)
        if kind == "gaussian":
            misfit.append(abs(s_max / laws[q, "orthogonal"].s_max - 1))
    error = found["orthogonal/s_max_error"]
    return {
        **found,
        "orthogonal/s_max_error_small_q": max(error[:2]),
        "orthogonal/s_max_error_large_q": error[2],
        "orthogonal/mean_square_error_small_q": max(found["orthogonal/mean_square_error"][:2]),
        "gaussian/s_max_misfit_small_q": min(misfit[:2]),
        "gaussian_over_orthogonal": found["gaussian/s_max"][1] / found["orthogonal/s_max"][1],
        "orthogonal_over_its_law": found["orthogonal/s_max"][1] / laws[Q_JACOBIAN[1], "orthogonal"].s_max,
    }


def fishers(data: iso.data.Dataset, width: int, depth: int, samples: int, seed: int) -> Measured:
    """Claims 2, 3 and 5: the Fisher information of the hidden layers' parameters, one net per q*.

    Returns:
        Series over q*, and the numbers that the claims name.
    """
    found: dict[str, list[float]] = {}
    for q in Q_FISHER:
        x, labels, model = critical_net(data, width, depth, q, "orthogonal", samples, seed)
        true = iso.measure.fisher(model, x, params="hidden")
        empirical = iso.measure.fisher(model, x, targets=labels, kind="empirical", params="hidden")
        radius = iso.measure.jacobian(model, x).spectrum().s_max
        for what, value in {
            "true/lambda_max": true.lambda_max,
            "empirical/lambda_max": empirical.lambda_max,
            "radius_squared": float(radius.square().mean()),
            "rigorous_ratio": float(true.bound(form="rigorous")) / true.lambda_max,
            "theorem_ratio": float(true.bound(form="theorem")) / true.lambda_max,
            "condition": true.condition().median,
            "effective_rank": true.effective_rank,
        }.items():
            found.setdefault(what, []).append(value)
    rigorous, theorem = found["rigorous_ratio"], found["theorem_ratio"]
    return {
        **found,
        "rigorous_ratio_smallest": min(rigorous),
        "rigorous_ratio_smallest_of_one_layer": min(rigorous) / depth,
        "theorem_ratio_smallest_small_q": min(theorem[:3]),
        "theorem_ratio_largest_small_q": max(theorem[:3]),
        "theorem_ratio_smallest_large_q": min(theorem[3:]),
        "condition_smallest_q_over_middle_q": found["condition"][0] / found["condition"][2],
    }


def critical_net(
    data: iso.data.Dataset, width: int, depth: int, q: float, weights: Weights, samples: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor, torch.nn.Module]:
    """Build a critical tanh perceptron and the batch that meets its q*.

    Returns:
        Inputs, labels and the model.
    """
    images, labels = iso.data.batch(data, samples, generator=torch.Generator().manual_seed(seed))
    model = iso.nn.perceptron(tuple(images.shape[1:]), 10, depth=depth, width=width).double().eval()
    generator = torch.Generator().manual_seed(seed)
    iso.init.critical_(model, q_star=q, weights=weights, absorb_inputs=False, generator=generator)
    at = iso.theory.MeanField("tanh").critical(q_star=q)
    x = iso.init.scale_inputs(
        images.double(), q_star=q, sigma_w=at.sigma_w, sigma_b=at.sigma_b, fan_out=width, weights=weights
    )
    return x, labels, model


def links(evidence: Evidence, name: str) -> dict[str, float]:
    """Claim 2: correlate lambda_max with the squared spectral radius of the Jacobian over all nets.

    Returns:
        Pearson's coefficients: of logarithms, of the raw values, and of logarithms paired wrongly (the control).
    """
    radius = torch.tensor(evidence.array(f"{name}/radius_squared"))
    found = {}
    for kind in ("true", "empirical"):
        top = torch.tensor(evidence.array(f"{name}/{kind}/lambda_max"))
        for what, a, b in (
            ("pearson_log", top.log(), radius.log()),
            ("pearson_raw", top, radius),
            ("pearson_log_shuffled", top.log(), radius.log().roll(2, dims=1)),
        ):
            found[f"{name}__{kind}__{what}"] = float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])
    return found
