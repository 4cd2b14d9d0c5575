"""AuON: A Linear-time Alternative to Semi-Orthogonal Momentum Updates (2025)."""
