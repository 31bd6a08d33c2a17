"""What makes a result believable: replay, the certificate of one sample, and the judge that turns both into a status.

It is handed an observation and a proposal, trusts neither, and never sees the truth.
"""

from unbatch.evidence.judge import judge
from unbatch.evidence.looked_up import lookups

__all__ = ["judge", "lookups"]
