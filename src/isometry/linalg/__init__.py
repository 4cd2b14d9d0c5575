"""Orthogonalizers, Haar sampling, Lanczos, guarded decompositions: pure functions of tensors."""
