"""General linear algebra, tensors in and tensors out: low rank, completion of pruned matrices, simplex, matching."""
