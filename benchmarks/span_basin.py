"""The basin of ``unbatch.polish``: the share of guesses that lead to their own sample, against how alike they are to it.

A guess is its sample plus a random direction inside the row space, the hardest there is: noise outside of it is projected away. Alike is the
cosine between guess and sample, both centered on the batch's mean. CIFAR-10, six layers of width 200, GELU.
"""

import itertools

import harness
import torch
from torch import nn

from unbatch.auditing import polish
from unbatch.gradients import capture
from unbatch.types import Observation

options = harness.arguments(__doc__, sizes="8,20,50", batches=2, seconds=60.0)
results = harness.Results("span_basin")
data = harness.dataset("cifar10")
for size, alike in itertools.product(map(int, options.sizes.split(",")), (0.98, 0.9, 0.8, 0.6, 0.4, 0.2)):
    key = f"b={size} cosine={alike}"
    if not list(results.missing([key])):
        continue
    led = 0
    for seed in range(options.batches):
        batch = data.batch(size, seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            widths = [3072, 200, 200, 200, 200, 200, 10]
            layers = [part for pair in itertools.pairwise(widths) for part in (nn.Linear(*pair), nn.GELU())]
            model = nn.Sequential(nn.Flatten(), *layers[:-1]).double()
        mean = batch.inputs.mean(dim=0)
        centered = (batch.inputs - mean).flatten(1)
        mixed = torch.randn((size, size), generator=torch.Generator().manual_seed(seed), dtype=torch.float64) @ centered
        along = nn.functional.normalize(centered, dim=1)
        across = nn.functional.normalize(mixed - (mixed * along).sum(dim=1, keepdim=True) * along, dim=1)
        turned = (alike * along + (1 - alike**2) ** 0.5 * across) * centered.norm(dim=1, keepdim=True)
        observation = Observation(model, capture(model, batch.inputs, batch.labels), (3, 32, 32))
        for i in range(0, size, max(1, size // 8)):  # one guess at a time: what it leads to is its own doing
            guess = turned[i].reshape(1, 3, 32, 32) + mean
            found = polish(observation, guess, attack=f"span:search=false,seconds={options.seconds}")
            near = found.inputs is not None and found.status.disclosed
            led += near and bool(((found.inputs - batch.inputs[i]).flatten(1).norm(dim=1) < 1e-6 * batch.inputs[i].norm()).any())
    tried = options.batches * len(range(0, size, max(1, size // 8)))
    results.put(key, {"guesses": tried, "led_to_their_own_sample": led, "threads": torch.get_num_threads()})
    print(key, led, tried, flush=True)
