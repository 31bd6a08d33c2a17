"""Findings on disk, and later the plans that make many of them."""
