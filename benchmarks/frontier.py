"""The frontier: for widths 200 to 2000, how many of the batches of size b are wholly exact. Six layers, ten classes, real labels.

Within 60 s, and 180 s from width 1000 on.
"""

import harness

from unbatch.models.mlp import Mlp

POINTS = {
    200: (30, 60, 75, 80, 90, 95, 110),
    400: (60, 120, 160, 180),
    1000: (100, 200, 300, 400),
    2000: (220, 400, 600),
}

options = harness.arguments(
    __doc__, batches=20, seconds=60.0, large_seconds=180.0, sets="cifar10,mnist", widths="200,400,1000,2000", large=20, sizes=""
)
results = harness.Results("frontier")
for name in options.sets.split(","):
    data = harness.dataset(name)
    for width in map(int, options.widths.split(",")):
        for size in map(int, options.sizes.split(",")) if options.sizes else POINTS[width]:
            for key in results.missing([f"{name} m={width} b={size}"]):
                outcomes = []
                for seed in range(options.batches if width < 1000 else options.large):
                    model = Mlp(width).build(data.input_shape, harness.classes(data), seed).double()
                    observed = harness.observe(data, model, size, seed)
                    seconds = options.seconds if width < 1000 else options.large_seconds
                    outcomes.append(harness.attack(*observed, f"spear:seconds={seconds}", seed))
                results.add(key, outcomes, width=width, size=size, set=name)
