"""Bayesian collaborative filtering in PyTorch."""
