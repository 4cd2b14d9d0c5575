"""Settle the health of every network that has no label yet: ``python -m zoo.label [NAME ...] [--seed N]``.

Labels are kept in labels.json by name; give names to settle them anew.
"""

from __future__ import annotations

import argparse
import json
from multiprocessing import get_context
from pathlib import Path

import torch

from zoo import ZOO
from zoo._data import variants
from zoo._label import label

LABELS = Path(__file__).with_name("labels.json")
PROCESSES = 2


def work(task: tuple[str, int]) -> tuple[str, dict[str, object]]:
    """Label one network in a process of its own.

    Returns:
        Its name and label.
    """
    torch.set_num_threads(1)
    name, seed = task
    entry = ZOO[name]
    return name, label(entry.model(seed), variants()[entry.data], seed=seed).to_dict()


def main() -> None:
    """Label what has no label yet, or what is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=LABELS)
    options = parser.parse_args()
    known = json.loads(options.out.read_text()) if options.out.exists() else {}
    wanted = options.names or [name for name in ZOO if name not in known]
    with get_context("spawn").Pool(PROCESSES) as pool:
        for name, found in pool.imap_unordered(work, [(name, options.seed) for name in wanted]):
            known[name] = found
            ordered = {n: known[n] for n in ZOO if n in known}
            options.out.write_text(json.dumps(ordered, indent=1) + "\n")
            print(
                f"{name}: {'sick' if found['sick'] else 'healthy'} (best loss {found['ratio']} of chance)", flush=True
            )


if __name__ == "__main__":
    main()
