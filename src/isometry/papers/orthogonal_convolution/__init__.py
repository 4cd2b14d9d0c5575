"""Existence, Stability and Scalability of Orthogonal Convolutional Neural Networks (2022)."""
