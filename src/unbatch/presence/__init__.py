"""Whether given records were in the batch: the row spaces of an update, what a record would leave there, and what unrelated ones leave.

It stands on ``evidence``, which holds what is common to it and the judge of reconstructions, and never sees the truth.
"""

from unbatch.presence.witnessed import presence

__all__ = ["presence"]
