"""Honesty trials: real samples, networks in every state, rounds told rightly and wrongly; no verdict is false.

By the thousand, in parallel and resumable, with a page of their results: ``benchmarks/honesty.py``, run by ``make test-long``.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from generator import Outcome, build, role, run
from rounds import KINDS
from unbatch.attacks.span import Span
from verdicts import falsehoods

CLOCK = {"overrun", "overrun by the clock alone"}
"""Failures that a busy machine can cause: judged by the benchmark, on a quiet one."""


def false(outcomes: list[Outcome]) -> list[str]:
    return [
        f"seed {outcome.seed} ({outcome.kind}, {outcome.status}): {failure.kind}: {failure.detail} {outcome.facts}"
        for outcome in outcomes
        for failure in outcome.failures
        if failure.kind not in CLOCK
    ]


@pytest.mark.parametrize("start", range(0, 2 * len(KINDS), len(KINDS) // 2))
def test_no_verdict_is_false(start: int) -> None:
    assert false([run(seed) for seed in range(start, start + len(KINDS) // 2)]) == []


@pytest.mark.parametrize(
    "seed",
    [
        80826,
        92071,
        130163,
        130345,
        130501,
        140045,
        140222,
        140778,
        150479,
        160398,
        220514,
        161474,
        281140,
        282587,
        280292,
        332367,
        375138,
        385382,
        403074,
        451162,
    ],
)
def test_what_was_false_once_is_not_again(seed: int) -> None:
    """Among them: a told size of 4 that hid a member who was there twice (140045), one of a region off by 1e-6 (140222), and one with a
    bit of a faint one of its class in it, which counted 1 / 9.9975 (160398); and three that ended in an error of ours (220514, 281140: a
    liar's features of a layer that nobody left a trace in, 282587: more rows than their rank of a float32 model). Of 280292 lengths were
    given too exactly: weights that were tuned had taken up what they are off by. 332367 divided by a row on which nothing was added up,
    and of 375138 more columns passed than there were rows. Of 385382 no
    labels at all were told, and of 403074 fewer neurons fired than there were samples."""
    assert false([run(seed)]) == []


def test_more_candidates_than_samples_are_no_error() -> None:
    assert false([run(270913, Span)]) == []


def test_a_region_of_its_own_needs_more_conditions_than_ways_to_move() -> None:
    """Twelve neurons speak; between the regions of seven members lies one in which span makes up a sample, if it is given the time."""
    trial = build(270078, {}, Span)
    found = replace(trial.attack, seconds=4.0)(trial.observation, seed=role(270078, "attack") % 2**31)  # type: ignore[type-var]
    assert falsehoods(found, trial.truth) == []


def test_the_trials_bite() -> None:
    """Of gradients and sums of fresh networks, told rightly, nearly all is proved: a judge that believes nothing would never be wrong."""
    seeds = [seed for seed in range(20 * len(KINDS)) if KINDS[seed % len(KINDS)] in ("gradient", "sum") and seed // len(KINDS) % 5 == 0]
    outcomes = [run(seed) for seed in seeds]
    assert false(outcomes) == []
    searched = [outcome for outcome in outcomes if outcome.facts["attack"].startswith("spear") and outcome.status != "NOT_APPLICABLE"]
    assert sum(outcome.claimed > 0 for outcome in searched) > 0.8 * len(searched)


def test_a_seed_is_a_trial() -> None:
    first, second = build(3, {}), build(3, {})
    assert first.facts == second.facts
    assert all(bool((first.observation.update[name] == second.observation.update[name]).all()) for name in first.observation.update)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_no_verdict_is_false_in_300_trials() -> None:
    assert false([run(seed) for seed in range(100_000, 100_300)]) == []
