"""One seed for a whole run, and what each part of it draws from.

Whoever knows a seed can repeat the draws that were made from it. A client and an attack that were handed the same number must therefore
never draw the same: an attack that opened a generator with its own seed would hold the client's noise in its hands and could subtract it.
So every role draws from a seed of its own, derived from the one seed by hashing, and one number still repeats the whole run.
"""

from __future__ import annotations

import hashlib
import operator
from typing import Literal, SupportsIndex

import torch

from unbatch.errors import Misuse

__all__ = ["LARGEST", "Role", "checked", "derive", "generator"]

Role = Literal["data", "weights", "protocol", "defense", "attack"]
"""Who draws: the client's samples, the first weights, the course of training, the noise of a defense, the search of an attack."""

LARGEST = 2**63 - 1
"""The largest seed; the smallest is 0. Every generator takes these."""


def checked(seed: SupportsIndex) -> int:
    """The same seed, if it is one.

    Raises:
        Misuse: it is not a whole number from 0 to 2⁶³ − 1.

    Example:
        >>> checked(10**24)
        Traceback (most recent call last):
        unbatch.errors.Misuse: expected a seed from 0 to 9223372036854775807, got 1000000000000000000000000: ...
    """
    try:
        number = operator.index(seed)
    except TypeError:
        number = -1
    if not 0 <= number <= LARGEST:
        raise Misuse(f"a seed from 0 to {LARGEST}", f"{seed!r:.40}", "give a whole number in this range; every one is as good")
    return number


def derive(seed: SupportsIndex, role: Role) -> int:
    """The seed that a role draws from: the SHA-256 of the one seed and the role's name, cut to 63 bits.

    Raises:
        Misuse: the seed is not a whole number from 0 to 2⁶³ − 1.

    Example:
        >>> derive(0, "data") == derive(0, "data"), derive(0, "data") == derive(0, "attack"), derive(0, "data") == derive(1, "data")
        (True, False, False)
    """
    digest = hashlib.sha256(f"unbatch/{role}/{checked(seed)}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: SupportsIndex, role: Role, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator of a role.

    Raises:
        Misuse: the seed is not a whole number from 0 to 2⁶³ − 1.

    Example:
        >>> one, other = (torch.randn(3, generator=generator(0, role)) for role in ("defense", "attack"))
        >>> bool((one == other).any())
        False
    """
    return torch.Generator(device).manual_seed(derive(seed, role))
