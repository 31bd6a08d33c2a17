"""search="auto" beside search="sampling" in one process, in turn, on the same updates: the time ratio for b = 10 … 20.

Beyond what sampling finishes here, its time is extrapolated, and said to be: measured seconds per subset × the expected number of subsets,
2^(b−1) H_b.
"""

import statistics

import harness

from unbatch.models.mlp import Mlp
from unbatch.spear.sampling import expected_subsets

options = harness.arguments(__doc__, batches=5, set="cifar10", seconds=900.0, sizes="10,12,14,16,18,20")
results = harness.Results("side_by_side")
data = harness.dataset(options.set)
per_subset: list[float] = []


def case(size: int, seed: int) -> tuple[harness.Observation, harness.Batch]:
    return harness.observe(data, Mlp().build(data.input_shape, harness.classes(data), seed).double(), size, seed)


for key in results.missing([f"b={size}" for size in options.sizes.split(",")]):
    size = int(key.removeprefix("b="))
    fast, slow = [], []
    for seed in range(options.batches):
        both = case(size, seed)
        fast.append(harness.attack(*both, "spear", seed))
        slow.append(harness.attack(*both, f"spear:search=sampling,seconds={options.seconds}", seed))
    ratios = [b.seconds / a.seconds for a, b in zip(fast, slow, strict=True)]
    subsets = sum(outcome.stats["subsets"] for outcome in slow)
    results.put(
        key,
        {
            "auto_seconds": [outcome.seconds for outcome in fast],
            "auto_exact": sum(outcome.exact for outcome in fast),
            "sampling_seconds": [outcome.seconds for outcome in slow],
            "sampling_exact": sum(outcome.exact for outcome in slow),
            "subsets": subsets,
            "ratio": {"min": min(ratios), "median": statistics.median(ratios), "max": max(ratios)},
            "sampling_seconds_per_subset": sum(outcome.seconds for outcome in slow) / subsets,
        },
    )
    print(key, results.content["cases"][key]["ratio"], flush=True)
extrapolated = ["b=25 (extrapolated)", "b=30 (extrapolated)"] if "b=20" in results.content["cases"] else []
for key in results.missing(extrapolated):
    size = int(key[2:4])
    fast = [harness.attack(*case(size, seed), "spear", seed) for seed in range(options.batches)]
    median = statistics.median(outcome.seconds for outcome in fast)
    guess = results.content["cases"]["b=20"]["sampling_seconds_per_subset"] * expected_subsets(size)
    results.put(key, {"auto_seconds": median, "auto_exact": sum(o.exact for o in fast), "sampling_seconds": guess, "ratio": guess / median})
    print(key, f"{guess / median:.1e}", flush=True)
