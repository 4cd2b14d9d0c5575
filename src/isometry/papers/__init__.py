"""Papers' claims as commands: each claim is tested by an experiment that anyone can run.

How to write a study
====================

A paper is a folder ``papers/<slug>/``, underscores in its name, hyphens on the command line. It holds five files:

``__init__.py``
    One line, the paper's name as a docstring.

``claims.toml``
    What the paper claims and what would count. Unknown keys are errors::

        title = "On Balls"
        authors = "A. Author and B. Author"
        year = 2020
        venue = "ICLR"
        link = "https://arxiv.org/abs/0000.00000"
        summary = "One line: what the paper is about."

        [scales.smoke]                 # smoke and full are compulsory; smoke runs in less than 20 s
        seeds = 2                      # how many, by default
        about = "width 64, depth 20; 5 s"
        [scales.full]
        seeds = 5
        about = "width 400, depth 50; 60 s"
        [scales.paper]                 # optional: the paper's own sizes, on an accelerator
        seeds = 1
        about = "width 1000, depth 200; 5 min on a GPU"

        [[claims]]
        id = "largest-singular-value"  # lower-case words with hyphens
        statement = "What the paper states, in our words."
        where = "Section 3, Fig. 2"
        quantity = "relative error of the largest singular value against theory"   # in words
        predicted = "0"                # value or direction, in words
        cost = "20 s"
        control_note = "Gaussian weights, for which the theory of orthogonal ones is wrong"
        tolerance = 0.05               # optional: relative difference that a re-run may show
        scales = ["smoke", "full"]     # optional: ask this claim only at these scales

        [[claims.pass]]                # one or more rules; all must hold
        quantity = "orthogonal/error"  # name in the evidence; a list of names stands for one rule each
        comparison = "<="              # <  <=  >  >=  within (threshold = [low, high])  increasing  decreasing
        threshold = 0.05               # increasing and decreasing, along a series, take none
        over = "all"                   # all (default): every seed; mean; interval: the whole 95 % interval
        scales = ["full"]              # optional: ask this rule only at these scales

        [[claims.control]]             # one or more rules that must FAIL, on a baseline or a broken case
        quantity = "gaussian/error"
        comparison = "<="
        threshold = 0.05

``study.py``
    At most about 150 lines, public API only (``import isometry as iso``; nothing whose name starts with an
    underscore); other files beside it may hold parts of it, under the same rules. It defines ``run(scale, seeds)``,
    called with a scale's name and a tuple of whole numbers, and returns ``Evidence`` with one value a seed for every
    quantity that a rule names: a number, or a series (one number for each q*, say) of equal length. Nothing is random
    but through the seed. ``collect`` does the bookkeeping::

        from isometry.papers import Evidence, collect

        SIZES = {"smoke": (64, 20), "full": (400, 50)}


        def run(scale: str, seeds: tuple[int, ...]) -> Evidence:
            width, depth = SIZES[scale]
            return collect(scale, seeds, lambda seed: one_net(width, depth, seed), datasets=["digits"])


        def one_net(width: int, depth: int, seed: int) -> dict[str, float]:
            return {"orthogonal/error": ..., "gaussian/error": ...}

    A number that is computed from all seeds together (a correlation over all nets) is pooled:
    ``evidence.with_pooled(digits__pearson=0.9)`` adds the quantity ``digits/pearson``. What cannot be measured (a
    data set that is not installed) goes into ``skipped`` with the reason; its rules are then unclear. Settings and
    departures from the paper go into ``notes``.

``evidence.json``
    Written by ``isometry papers run SLUG --scale full --write`` and the same with ``smoke``, and committed. Each run
    keeps values per seed, means, 95 % intervals, verdicts, versions, the commit and the seconds; commit the source
    first, so that ``dirty`` is false. ``isometry papers verify`` re-runs the smoke scale with the same seeds and
    compares.

``README.md``
    At most 40 lines: verdict, departures from the paper, one figure.

The verdict of a claim is computed from the evidence and cannot be written by hand. It *fails* if a rule fails. It
*holds* if all rules hold and all controls fail. It is *unclear at this scale* if a rule or control cannot be decided
(an interval with both sides, NaN, not measured) or if the control passes too. A claim that fails is a result: report
it as found. When all is in place, ``isometry papers list --markdown > docs/papers.md`` renews the index page.
"""

from isometry.papers._claims import Claim, Claims, Scale, read_claims
from isometry.papers._evidence import Evidence, collect
from isometry.papers._index import index
from isometry.papers._registry import Paper, show
from isometry.papers._registry import list_papers as list
from isometry.papers._rules import Rule, RuleOutcome
from isometry.papers._run import Run, run, write_evidence
from isometry.papers._verdicts import ClaimVerdict, judge
from isometry.papers._verify import Verification, verify

__all__ = [
    # what there is
    "list",
    "show",
    "Paper",
    "index",
    # running a study
    "run",
    "write_evidence",
    "verify",
    "Run",
    "Verification",
    # writing a study
    "Evidence",
    "collect",
    # claims and verdicts
    "read_claims",
    "Claims",
    "Claim",
    "Scale",
    "Rule",
    "RuleOutcome",
    "judge",
    "ClaimVerdict",
]
