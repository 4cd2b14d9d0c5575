"""Exact solutions to the nonlinear dynamics of learning in deep linear neural networks (Saxe et al., 2014)."""
