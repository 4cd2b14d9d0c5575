"""SVD-Free Low-Rank Adaptive Gradient Optimization for Large Language Models (2025)."""
