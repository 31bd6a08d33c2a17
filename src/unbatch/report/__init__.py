"""Reports: read a stored finding, need no model."""
