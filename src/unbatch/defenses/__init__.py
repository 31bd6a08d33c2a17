"""Defenses: small pure transforms of gradients, one a file, each with its stage."""
