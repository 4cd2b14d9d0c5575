"""AdamP: Slowing Down the Slowdown for Momentum Optimizers on Scale-invariant Weights (2021)."""
