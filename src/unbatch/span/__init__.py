"""Exact inversion through any activation: the certificate of one sample as an objective, guesses, batched least squares."""
