"""The frontier: for widths 200 to 2000, how many of the batches of size b are wholly exact within 60 s. Six layers, ten classes, real labels."""

import harness

from unbatch.models.mlp import Mlp

POINTS = {200: (30, 40, 60, 75, 85, 90, 95, 100, 110, 120), 400: (60, 80, 120, 150, 160, 180), 1000: (100, 120, 150, 200, 250), 2000: (220, 300, 400)}

options = harness.arguments(__doc__, batches=20, seconds=60.0, sets="cifar10,mnist", widths="200,400,1000,2000", large=20)
results = harness.Results("frontier")
for name in options.sets.split(","):
    data = harness.dataset(name)
    for width in map(int, options.widths.split(",")):
        for size in POINTS[width]:
            for key in results.missing([f"{name} m={width} b={size}"]):
                outcomes = []
                for seed in range(options.batches if width < 1000 else options.large):
                    model = Mlp(width).build(data.input_shape, harness.classes(data), seed).double()
                    observed = harness.observe(data, model, size, seed)
                    outcomes.append(harness.attack(*observed, f"spear:seconds={options.seconds}", seed))
                results.add(key, outcomes, width=width, size=size, set=name)
