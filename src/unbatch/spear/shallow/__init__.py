"""A Linear + ReLU layer with nothing but the output layer behind it: both gradients together say far more."""
