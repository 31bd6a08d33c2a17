"""Guesses are led some at a time: the others wait until what was found is taken out."""

import torch
from torch import Generator, Tensor

from planted import plant
from unbatch.spear.behind import Link
from unbatch.spear.layer import deflate
from unbatch.spear.led import AT_ONCE, ENOUGH, NOTHING, Led
from unbatch.spear.reflections import reflected


def test_some_are_led_and_the_others_wait_without_what_was_found() -> None:
    case, asked = plant(m=120, b=20), []
    many = case.samples.repeat(15, 1)  # 300: each sample every 20

    def make() -> Tensor:
        asked.append(len(many))
        return many

    led = Led(case.layer, NOTHING)
    eye = torch.eye(20, dtype=torch.float64)
    assert len(led.some(case.layer, eye, make)) == AT_ONCE
    known = 5
    rest, _, basis = deflate(case.layer, case.samples[:known], case.directions[:known])
    then = led.some(rest, basis, make)
    assert asked == [300]  # none were made anew
    assert len(then) == sum(i % 20 >= known for i in range(AT_ONCE, 300))  # but those of what is known, and too few beyond to be split
    z, true = then @ rest.made.T, rest.pre_activations(case.samples[known:] @ basis)
    cosine = torch.nn.functional.normalize(z, dim=1) @ torch.nn.functional.normalize(true, dim=1).T
    assert float(cosine.amax(dim=1).min()) > 1 - 1e-9
    assert len(led.some(rest, basis, lambda: make() @ basis)) == AT_ONCE
    assert asked == [300, 300]


def test_of_few_none_waits() -> None:
    case = plant(m=120, b=20)
    led = Led(case.layer, NOTHING)
    few = case.samples.repeat(9, 1)
    assert AT_ONCE < len(few) < AT_ONCE + ENOUGH
    assert len(led.some(case.layer, torch.eye(20, dtype=torch.float64), lambda: few)) == len(few)


def test_walks_to_one_sample_leave_the_way_to_the_best_of_them() -> None:
    case = plant(m=160, b=30)
    assert case.following is not None
    noise = torch.randn((20, 30), generator=Generator().manual_seed(2), dtype=torch.float64)
    starts = case.samples[:1] + 0.3 * case.samples[:1].norm() * noise / 30**0.5
    after = reflected(case.layer, [Link(case.following.activations)], starts, steps=200)
    z, true = after @ case.layer.made.T, case.layer.pre_activations(case.samples[:1])
    cosine = torch.nn.functional.normalize(z, dim=1) @ torch.nn.functional.normalize(true, dim=1).T
    assert float(cosine.max()) > 0.98
