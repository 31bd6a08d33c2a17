"""SPEAR's engine: the layer in its factors, guesses, sparse directions, rounding, sampling, selection, cascade, local steps."""
