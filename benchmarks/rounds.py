"""What a server sees of real rounds: FedAvg of 20 samples over E × mini-batch × learning rate, and sums over ten clients of ten samples.

Weight decay goes with the largest rate. Momentum of 0.9 makes steps ten times as long in the end, so it goes with a tenth of that rate.

In float64, where a reconstruction is exact or not, and in float32, where the difference of rounded weights bounds the accuracy.
"""

import itertools

import harness

from unbatch import plugins
from unbatch.models.mlp import Mlp

WAYS = {0.1: "", 0.01: "", 0.001: "", "0.1 weight decay 0.01": ",weight_decay=0.01", "0.01 momentum 0.9": ",momentum=0.9"}
"""What a column of the table is called, and what its clients do beside ordinary steps."""

GRID = list(itertools.product((1, 5, 10), (5, 10, 20), WAYS))

options = harness.arguments(__doc__, batches=10, size=20, width=200, sets="cifar10,tinyimagenet", seconds=20.0, sums=10)
results = harness.Results("rounds")


def measure(key: str, name: str, spec: str, width: int, size: int, dtype: str, batches: int, **facts: object) -> None:
    data = harness.dataset(name)
    outcomes = []
    for seed in range(batches):
        model = Mlp(width).build(data.input_shape, harness.classes(data), seed)
        batch = data.batch(size, seed)
        seen = plugins.build("protocols", spec).observe(model.float() if dtype == "float32" else model.double(), batch, seed=seed)
        outcomes.append(harness.attack(seen, batch, f"spear:seconds={options.seconds}", seed))
    found = sum(outcome.least_psnr > 60 for outcome in outcomes)
    statuses = {status: sum(o.status == status for o in outcomes) for status in sorted({o.status for o in outcomes})}
    results.add(key, outcomes, set=name, dtype=dtype, above_60_dB=found, statuses=statuses, **facts)


for name, dtype in itertools.product(options.sets.split(","), ("float64", "float32")):
    for epochs, mini, rate in GRID:
        for key in results.missing([f"fedavg {name} {dtype} E={epochs} mini-batch={mini} rate={rate}"]):
            spec = f"fedavg:epochs={epochs},batch_size={mini},learning_rate={str(rate).split()[0]}{WAYS[rate]}"
            facts = {"protocol": "fedavg", "epochs": epochs, "mini": mini, "rate": rate}
            measure(key, name, spec, options.width, options.size, dtype, options.batches, **facts)
for name, dtype in itertools.product(options.sets.split(","), ("float64", "float32")):
    for key in results.missing([f"secure aggregation {name} {dtype} 10 clients of 10, m=2000"]):
        measure(key, name, "secure_aggregation:clients=10", 2000, 100, dtype, options.sums, protocol="secure_aggregation")
