"""Feature Learning and Generalization in Deep Networks with Orthogonal Weights (Day, Kahn and Roberts, 2023)."""
