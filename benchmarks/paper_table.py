"""The SPEAR paper's table: six layers of width 200, batches of 20, five data sets; share of exact batches and time.

Reported (Dimitrov et al., NeurIPS 2024, on a GPU): 99 % of batches exact on each; median PSNR / minutes per batch MNIST 99.1 / 2.6,
CIFAR-10 106.6 / 1.7, TinyImageNet 110.7 / 1.4, ImageNet 224² 125.4 / 2.1, ImageNet 720² 125.6 / 2.6.
"""

import harness

from unbatch.models.mlp import Mlp

options = harness.arguments(
    __doc__, size=20, width=200, batches=100, large=10, attack="spear", sets="mnist,cifar10,tinyimagenet,imagenet224,imagenet720"
)
results = harness.Results("paper_table")
names = {f"{name} b={options.size} m={options.width} {options.attack}": name for name in options.sets.split(",")}
for key in results.missing(list(names)):
    data = harness.dataset(names[key])
    outcomes = []
    for seed in range(options.large if names[key] == "imagenet720" else options.batches):
        model = Mlp(options.width).build(data.input_shape, harness.classes(data), seed)
        # A 720² gradient is 1.24 GB in float32, the type that it is sent in.
        model = model.float() if names[key] == "imagenet720" else model.double()
        outcomes.append(harness.attack(*harness.observe(data, model, options.size, seed), options.attack, seed))
    results.add(key, outcomes)
