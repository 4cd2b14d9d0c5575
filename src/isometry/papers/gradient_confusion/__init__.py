"""The Impact of Neural Network Overparameterization on Gradient Confusion and Stochastic Gradient Descent (2020)."""
