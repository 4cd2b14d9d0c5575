"""A diagnosis as plain data: what diagnosis.json holds and the report is drawn from."""

from __future__ import annotations

import math
import sys
from typing import Any

import torch
from torch import nn

from isometry._base import preserved_rng
from isometry._version import __version__
from isometry.diagnosis._chain import elementwise
from isometry.diagnosis._evidence import Evidence
from isometry.diagnosis._finding import Finding
from isometry.diagnosis._nodes import NodeInputs
from isometry.diagnosis._prescription import Prescription
from isometry.diagnosis._proof import Proof
from isometry.diagnosis.rules._quantities import gradient_efolds, hidden_layers, reached
from isometry.measure import Coverage
from isometry.training import Curve

__all__ = ["SCHEMA", "content"]

SCHEMA = 1
LAW_POINTS = 200


def content(
    evidence: Evidence,
    findings: tuple[Finding, ...],
    verdict: str,
    prescription: Prescription | None,
    proof: Proof | None,
    *,
    names: tuple[str, str],
    created: str,
    total: float,
) -> dict[str, Any]:
    """Write everything down as plain JSON data; numbers that are not finite become None.

    Args:
        evidence: What was measured.
        findings: What the rules said.
        verdict: The sum of it.
        prescription: What to change, or None.
        proof: Training before and after, or None.
        names: What to call model and data.
        created: Time, ISO 8601.
        total: Seconds in all.

    Returns:
        The structure of ``report.Content``.
    """
    whole = {
        "schema": SCHEMA,
        "isometry": __version__,
        "created": created,
        "subject": _subject(evidence, names),
        "verdict": verdict,
        "findings": [{**f.to_dict(), "where": list(f.where)} for f in findings],
        "signal": _signal(evidence),
        "jacobian": _jacobian(evidence),
        "fisher": _fisher(evidence),
        "phase": _phase(evidence, prescription),
        "prescription": _prescription(prescription),
        "proof": _proof(proof),
        "skipped": [{"what": s.what, "why": s.why} for s in evidence.skipped],
        "cost": {"seconds": dict(evidence.seconds), "total": total},
    }
    finite: dict[str, Any] = _finite(whole)
    return finite


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _subject(evidence: Evidence, names: tuple[str, str]) -> dict[str, Any]:
    case, first = evidence.case, next(evidence.case.model.parameters())
    layers = 0 if evidence.signal is None else len(evidence.signal.weight_layers)
    return {
        "model": names[0],
        "data": names[1],
        "parameters": sum(p.numel() for p in case.model.parameters()),
        "layers": layers,
        "samples": None if isinstance(case.x, NodeInputs) else len(case.x),
        "nodes": len(case.x) if isinstance(case.x, NodeInputs) else None,
        "classes": None if case.dataset is None else case.dataset.classes,
        "likelihood": case.likelihood,
        "activation": evidence.chain.activation if evidence.chain is not None else _functions(evidence),
        "dtype": str(first.dtype).removeprefix("torch."),
        "device": str(first.device),
    }


def _functions(evidence: Evidence) -> str | None:
    """Name the activations of a model that is no chain.

    A module without parameters is an activation of its own where it computes something else than the function that it
    calls: GELU's tanh approximation calls tanh. It is then called as its library does, or by its class.

    Returns:
        The names, or None without any.
    """
    if evidence.signal is None:
        return None
    modules = dict(evidence.case.model.named_modules())
    calls = [(modules.get(call.name), call.function) for call in evidence.signal.activations]
    return ", ".join(dict.fromkeys(_function(module, called) for module, called in calls)) or None


def _function(module: nn.Module | None, called: str) -> str:
    bare = module is not None and next(module.parameters(), None) is None and next(module.children(), None) is None
    if module is None or not bare or type(module).__module__.startswith("torch.nn."):
        return called
    h = torch.linspace(-3, 3, 31)
    try:
        with torch.no_grad(), preserved_rng():
            value, plain = module(h.clone()), elementwise(called)(h)
        if value.shape == plain.shape and torch.allclose(value, plain, rtol=1e-5, atol=1e-6):
            return called
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError):
        return called  # it takes more than one tensor, or none of this shape: no activation
    return _library_name(module) or type(module).__name__


def _library_name(module: nn.Module) -> str | None:
    known = getattr(sys.modules.get("transformers.activations"), "ACT2CLS", {})  # loaded if the module is one of these
    return next((name for name, kind in known.items() if kind is type(module)), None)


def _signal(evidence: Evidence) -> dict[str, Any] | None:
    if evidence.signal is None:
        return None
    p, hidden = evidence.prediction, hidden_layers(evidence)
    place = {layer.name: i for i, layer in enumerate(hidden)} if p is not None else {}
    last = hidden[-1].gradient_norm if hidden else math.nan
    rows = []
    for layer in evidence.signal.layers:
        i = place.get(layer.name)
        inside = p is not None and i is not None and i < len(p.q)
        rows.append(
            {
                "name": layer.name,
                "kind": layer.kind,
                "depth": layer.depth,
                "q": layer.q,
                "q_theory": p.q[i] if inside else None,  # type: ignore[index, union-attr]
                "correlation": layer.correlation,
                "correlation_theory": p.correlation[i] if inside else None,  # type: ignore[index, union-attr]
                "gradient_norm": layer.gradient_norm,
                "gradient_theory": last * math.sqrt(p.gradient[i]) if inside else None,  # type: ignore[index, union-attr]
                "dead": layer.dead,
                "saturated": layer.saturated,
                "nonfinite": layer.nonfinite,
            }
        )
    folds = gradient_efolds(evidence)
    return {
        "layers": rows,
        "q_star": None if p is None else p.q_star,
        "xi_c": None if p is None else p.xi_c,
        "xi_grad": None if p is None else p.xi_grad,
        "measured_efold_forward": _forward_efold(evidence),
        "measured_efold_gradient": -(len(reached(evidence)) - 1) / folds if folds and math.isfinite(folds) else None,
    }


def _forward_efold(evidence: Evidence) -> float | None:
    """Measure over how many layers the share of the signal that tells inputs apart falls by e.

    Layers at the level of rounding noise are left out; least squares on the logarithm.

    Returns:
        The number of layers, or None where it does not fall.
    """
    shares = [x.distinguishability for x in evidence.response.inputs]
    kept = [(i, math.log(d)) for i, d in enumerate(shares) if d > evidence.response.noise]
    if len(kept) < 3:
        return None
    mean_i = sum(i for i, _ in kept) / len(kept)
    mean_d = sum(d for _, d in kept) / len(kept)
    slope = sum((i - mean_i) * (d - mean_d) for i, d in kept) / sum((i - mean_i) ** 2 for i, _ in kept)
    return -1 / slope if slope < -1e-3 else None


def _jacobian(evidence: Evidence) -> dict[str, Any] | None:
    jacobian = evidence.jacobian
    if jacobian is None:
        return None
    return {
        "singular_values": [list(v) for v in jacobian.values],
        "start": jacobian.start,
        "stop": jacobian.stop,
        "of": jacobian.of,
        "complete": not jacobian.left_out,
        "inputs": len(jacobian.values),
        "s_max": jacobian.s_max,
        "s_min": jacobian.s_min,
        "mean_square": jacobian.mean_square,
        "law": _law(jacobian.law),
    }


def _law(law: Any) -> dict[str, Any] | None:
    if law is None:
        return None
    top = float(law.s_max)
    s = [top * (i + 1) / LAW_POINTS * 1.05 for i in range(LAW_POINTS)]
    density = law.density(torch.tensor(s, dtype=torch.float64))
    return {
        "s": s,
        "density": [float(d) for d in density],
        "s_max": top,
        "mean_square": float(law.mean_square),
        "variance": float(law.variance),
        "weights": str(law.weights),
    }


def _fisher(evidence: Evidence) -> dict[str, Any] | None:
    fisher = evidence.fisher
    if fisher is None:
        return None
    top = evidence.lambda_max
    return {
        "eigenvalues": [float(v) for v in fisher.eigenvalues()],
        "kind": fisher.kind,
        "likelihood": fisher.likelihood,
        "params": fisher.params,
        "lambda_max": top,
        "max_step_size": 2 / top if top > 0 else None,
        "lambda_max_drawn": fisher.lambda_max if fisher.kind == "monte-carlo" else None,
        "effective_rank": evidence.effective_rank,
        "condition": fisher.condition().median,
        "bound_rigorous": evidence.certificate,
        "hidden": _hidden(evidence),
        "coverage": _coverage(fisher.coverage),
    }


def _coverage(coverage: Coverage) -> dict[str, Any]:
    return {
        "parameters": coverage.size,
        **{how.replace(" ", "_"): share for how, share in coverage.items()},
        "uncovered": [row.to_dict() for row in coverage.uncovered],
    }


def _hidden(evidence: Evidence) -> dict[str, Any] | None:
    hidden = evidence.hidden
    return None if hidden is None else {"lambda_max": hidden.lambda_max, "bound_theorem": hidden.theorem}


def _phase(evidence: Evidence, prescription: Prescription | None) -> dict[str, Any] | None:
    phase, chain = evidence.phase, evidence.chain
    if phase is None or chain is None:
        return None
    after = None
    if prescription is not None and prescription.sigma_w is not None:
        after = {"sigma_w": prescription.sigma_w, "sigma_b": prescription.sigma_b}
    return {
        "activation": chain.activation,
        "sigma_w": list(phase.sigma_w),
        "sigma_b": list(phase.sigma_b),
        "chi": [list(row) for row in phase.chi],
        "critical": {"sigma_w": list(phase.critical_w), "sigma_b": list(phase.critical_b)},
        "before": {"sigma_w": chain.sigma_w, "sigma_b": chain.sigma_b},
        "after": after,
    }


def _prescription(prescription: Prescription | None) -> dict[str, Any] | None:
    if prescription is None:
        return None
    return {
        "summary": prescription.summary,
        "changes": [{"name": c.name, "action": c.action, "detail": c.detail} for c in prescription.changes],
        "input_scale": prescription.input_scale,
        "notes": list(prescription.notes),
    }


def _proof(proof: Proof | None) -> dict[str, Any] | None:
    if proof is None:
        return None

    def run(curve: Curve) -> dict[str, Any]:
        return {"lr": curve.lr, "loss": list(curve.loss), "final_loss": curve.final_loss, "accuracy": curve.accuracy}

    return {
        "steps": proof.steps,
        "optimizer": proof.optimizer,
        "batch_size": proof.batch_size,
        "chance": proof.chance,
        "before": run(proof.before),
        "after": run(proof.after),
        "verdict": proof.verdict,
    }
