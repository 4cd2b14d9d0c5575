"""The two functions that people call."""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from numbers import Integral

from torch import nn

from isometry._base import Cost, check_positive
from isometry.diagnosis._admit import eagerly
from isometry.diagnosis._case import Case, open_case
from isometry.diagnosis._cause import blame_inputs
from isometry.diagnosis._content import content
from isometry.diagnosis._diagnosis import Diagnosis
from isometry.diagnosis._evidence import Evidence, Skipped, gather
from isometry.diagnosis._finding import Finding, verdict_of
from isometry.diagnosis._prescription import Prescription, write_prescription
from isometry.diagnosis._pretrained import WITHHELD, spared
from isometry.diagnosis._proof import Proof
from isometry.diagnosis._proof import prove as run_proof
from isometry.diagnosis.rules import judge
from isometry.tape import untouched
from isometry.training import Likelihood

__all__ = ["diagnose", "prescribe"]


def diagnose(
    model: nn.Module,
    data: object = None,
    *,
    prove: int = 0,
    samples: int = 100,
    in_shape: Sequence[int] | None = None,
    likelihood: Likelihood | None = None,
    q_star: float | None = None,
    budget: int | None = None,
    names: tuple[str, str] | None = None,
    seed: int = 0,
) -> Diagnosis:
    """Measure a model on a batch, compare with theory, and say what is wrong and what to do.

    A model whose weights were read from a checkpoint of the transformers library is measured and explained, with
    remedies that keep the weights; no initialization is prescribed for it.

    Everything is measured in evaluation mode, where one sample's signal is its own; how a training step changes the
    outputs is measured with the batch's statistics, as training sees it. Batch normalization that was never trained is
    calibrated on a copy first. What is compiled is measured uncompiled. The model itself is afterwards as it was.

    Args:
        model: A module whose output is (N, outputs), or (N, positions, outputs) for a label per position; a tuple or a
            dictionary of outputs is read as ``Inputs`` says.
        data: A pair (inputs, targets), a DataLoader, a torch Dataset, a Dataset or a name; inputs may be a tuple or a
            dictionary of tensors. ``Inputs`` alone measure without targets; so does None with ``in_shape``, on Gaussian
            inputs. One whole graph is a pair of ``Inputs(..., whole=True, mask=...)`` and its nodes' targets: the nodes
            then stand for samples, and all of them are measured.
        prove: Train the model as it is and as prescribed for so many steps; 0 does not train.
        samples: Inputs to measure on, at most.
        in_shape: Shape of one input, for data=None.
        likelihood: "categorical" or "gaussian"; default: from the targets' dtype.
        q_star: Second moment for the prescription to aim at; default: the initializer's choice.
        budget: Bytes that a dense measurement may take; default: the library's.
        names: What to call model and data in the report; default: the class and the data set's name.
        seed: Seed of the sample, the prescription and the proof.

    Returns:
        The diagnosis.

    Raises:
        ValueError: If model and data do not fit, or an option is out of range.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(*[m for _ in range(60) for m in (torch.nn.Linear(16, 16), torch.nn.Tanh())])
        >>> x, y = torch.randn(50, 16), torch.arange(50) % 16
        >>> "correlation_collapse" in [f.code for f in diagnose(net, (x, y)).findings]
        True
    """
    started = time.perf_counter()
    created = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    if isinstance(prove, bool) or not isinstance(prove, int) or (prove != 0 and prove < 10):
        raise ValueError(
            f"prove must be 0 or at least 10 steps, got {prove!r}; a few hundred show whether a net learns."
        )
    if prove and data is None:
        raise ValueError(f"prove is {prove} but there are no data to train on; pass data.")
    _check_seed(seed)
    if q_star is not None:
        check_positive("q_star", q_star)
    with eagerly(model):
        case = open_case(model, data, samples=samples, seed=seed, likelihood=likelihood, in_shape=in_shape)
        with untouched(case.original):
            evidence = gather(case, budget=budget)
            evidence.skipped.extend(Skipped("the model exactly as it is", note) for note in case.notes)
            findings = blame_inputs(evidence, judge(evidence))
            findings = spared(findings) if case.pretrained else findings
            verdict = verdict_of(findings)
            prescription = _prescribed(evidence, findings, verdict, q_star, wanted=prove > 0)
            proof = _proven(evidence, prescription, prove)
    total = time.perf_counter() - started
    return Diagnosis(
        verdict=verdict,
        findings=findings,
        prescription=prescription,
        proof=proof,
        skipped=tuple(evidence.skipped),
        evidence=evidence,
        cost=Cost(bytes=0 if evidence.fisher is None else evidence.fisher.cost.bytes, seconds=total),
        _content=content(
            evidence,
            findings,
            verdict,
            prescription,
            proof,
            names=names if names is not None else _names(case),
            created=created,
            total=total,
        ),
    )


def prescribe(
    model: nn.Module,
    data: object = None,
    *,
    samples: int = 100,
    in_shape: Sequence[int] | None = None,
    q_star: float | None = None,
    seed: int = 0,
) -> Prescription:
    """Work out an initialization for a model without judging the one that it has.

    Weights that were read from a checkpoint are overwritten as well; a note of the prescription says so.

    Args:
        model: As for ``diagnose``; not touched.
        data: As for ``diagnose``.
        samples: Inputs to calibrate on, at most.
        in_shape: Shape of one input, for data=None.
        q_star: Second moment to aim at; default: the initializer's choice.
        seed: Seed of sample and draw.

    Returns:
        The prescription; ``prescription.apply_(model)`` carries it out.
    """
    _check_seed(seed)
    if q_star is not None:
        check_positive("q_star", q_star)
    with eagerly(model):
        case = open_case(model, data, samples=samples, seed=seed, likelihood=None, in_shape=in_shape)
        with untouched(case.original):
            return write_prescription(case, (), q_star=q_star)


def _check_seed(seed: object) -> None:
    """Insist on a seed that torch's generators take.

    Raises:
        ValueError: If it is no whole number, or one that does not fit.
    """
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not -(2**63) <= int(seed) < 2**63:
        raise ValueError(f"seed must be a whole number below 2^63, got {seed!r}.")


def _prescribed(
    evidence: Evidence, findings: tuple[Finding, ...], verdict: str, q_star: float | None, *, wanted: bool
) -> Prescription | None:
    if verdict == "healthy" and not wanted:
        evidence.skipped.append(Skipped("prescription", "nothing needs to change"))
        return None
    if evidence.case.pretrained:
        evidence.skipped.append(Skipped("prescription", WITHHELD))
        return None
    started = time.perf_counter()
    try:
        return write_prescription(evidence.case, findings, q_star=q_star)
    except (ValueError, RuntimeError, NotImplementedError) as error:
        evidence.skipped.append(Skipped("prescription", " ".join(str(error).split())[:400]))
        return None
    finally:
        evidence.seconds["prescription"] = time.perf_counter() - started


def _proven(evidence: Evidence, prescription: Prescription | None, steps: int) -> Proof | None:
    case = evidence.case
    if steps == 0:
        return None
    if prescription is None or case.dataset is None:
        evidence.skipped.append(Skipped("proof", "there is no prescription to prove"))
        return None
    started = time.perf_counter()
    try:
        return run_proof(
            case.original, prescription, case.dataset, steps=steps, seed=case.seed, likelihood=case.likelihood
        )
    except ValueError as error:
        evidence.skipped.append(Skipped("proof", str(error)))
        return None
    finally:
        evidence.seconds["proof"] = time.perf_counter() - started


def _names(case: Case) -> tuple[str, str]:
    data = "Gaussian inputs" if case.dataset is None else case.dataset.name
    return type(case.original).__name__, data
