"""The contract, run on a plug-in of yours: what is broken comes as one error that names every promise.

    from unbatch.testing import check_attack

    def test_my_attack_keeps_the_contract():
        check_attack(MyAttack(steps=20))

The contract tests of unbatch itself call the same functions on everything that is built in.
"""

from unbatch.testing.attacks import check_attack
from unbatch.testing.datasets import check_dataset
from unbatch.testing.defenses import check_defense
from unbatch.testing.labels import check_restorer
from unbatch.testing.metrics import check_metric
from unbatch.testing.models import check_model
from unbatch.testing.promises import ContractBroken
from unbatch.testing.protocols import check_protocol

__all__ = [
    "ContractBroken",
    "check_attack",
    "check_dataset",
    "check_defense",
    "check_metric",
    "check_model",
    "check_protocol",
    "check_restorer",
]
