"""Flower (https://flower.ai): audit every client's update in a running federation, and defend updates before they are sent.

Needs the extra: ``pip install "unbatch[flower]"``. See docs/flower.md.
"""

from unbatch.flower.mod import DefenseMod
from unbatch.flower.strategy import AuditingStrategy
from unbatch.flower.summary import ClientSummary, RoundSummary

__all__ = ["AuditingStrategy", "ClientSummary", "DefenseMod", "RoundSummary"]
