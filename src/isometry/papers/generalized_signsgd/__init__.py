"""Robustness to Unbounded Smoothness of Generalized SignSGD (2022)."""
