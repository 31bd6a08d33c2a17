"""Trained networks: the share of visible samples that ``span`` proves after some epochs of SGD, on pictures that the training did not see.

MNIST, GELU, four layers of width 200, batches of 20. A sample is visible if its own gradient is above 1e-9 of the batch's largest.
"""

import time

import harness
import torch
from torch import nn
from torch.nn import functional as F

from unbatch.auditing import invert
from unbatch.gradients import capture, per_example
from unbatch.types import Observation

options = harness.arguments(__doc__, epochs="0,1,5,20", batches=5, size=20, seconds=60.0, held=1000)
results = harness.Results("span_trained")
data = harness.dataset("mnist")
pool = data.take(torch.arange(len(data)))
inputs, labels = pool.inputs.float(), pool.labels
with torch.random.fork_rng(devices=[]):
    torch.manual_seed(0)
    layers = [nn.Linear(784, 200), nn.GELU(), nn.Linear(200, 200), nn.GELU(), nn.Linear(200, 200), nn.GELU(), nn.Linear(200, 10)]
    model = nn.Sequential(nn.Flatten(), *layers)
optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
generator = torch.Generator().manual_seed(0)
wanted = [int(epoch) for epoch in options.epochs.split(",")]
for epoch in range(max(wanted) + 1):
    key = f"mnist gelu b={options.size} epochs={epoch}"
    if epoch in wanted and list(results.missing([key])):
        victim = nn.Sequential(
            nn.Flatten(), *[type(p)(p.in_features, p.out_features) if isinstance(p, nn.Linear) else nn.GELU() for p in layers]
        )
        victim.load_state_dict(model.state_dict())
        victim = victim.double()
        proved = visible = false = 0
        spent = time.process_time()
        for seed in range(options.batches):
            chosen = torch.randperm(options.held, generator=torch.Generator().manual_seed(seed))[: options.size]
            batch = data.take(chosen)
            x, y = batch.inputs.double(), batch.labels
            own = per_example(victim, x, y)["1.weight"].flatten(1).norm(dim=1)
            shown = own > 1e-9 * own.max()
            found = invert(Observation(victim, capture(victim, x, y), tuple(x.shape[1:])), f"span:seconds={options.seconds}", seed)
            visible += int(shown.sum())
            if found.inputs is not None and found.status.disclosed:
                distance = (x.flatten(1)[:, None] - found.inputs.double().flatten(1)).norm(dim=2) / x.flatten(1).norm(dim=1)[:, None]
                proved += int(((distance.amin(dim=1) < 1e-3) & shown).sum())
                false += int((distance.amin(dim=0) >= 1e-3).sum())
        with torch.no_grad():
            accuracy = float((model(inputs[: options.held]).argmax(1) == labels[: options.held]).float().mean())
        facts = {"batches": options.batches, "visible": visible, "proved": proved, "false": false, "accuracy": accuracy}
        results.put(key, facts | {"cpu_seconds": time.process_time() - spent, "threads": torch.get_num_threads()})
        print(key, facts, flush=True)
    for part in torch.randperm(len(inputs) - options.held, generator=generator).add(options.held).split(64):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs[part]), labels[part]).backward()
        optimizer.step()
