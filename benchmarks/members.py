"""Presence of given records: members found and others taken for members, far beyond reconstruction, through rounds, and under noise."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from typing import Any

import harness
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unbatch.membership import members
from unbatch.models.mlp import Mlp
from unbatch.protocols.fedavg import FedAvg
from unbatch.protocols.fedsgd import FedSgd
from unbatch.types import Membership, Observation, Verdict

WIDTH, OTHERS = 1000, 10_000


def trained(width: int, data: harness.Dataset, activation: str, epochs: int, rate: float = 0.05) -> nn.Module:
    """A network after some epochs on the last 2,500 pictures, float32."""
    model = Mlp(width, 6, activation).build(data.input_shape, harness.classes(data), 0).float()
    optimizer, generator = torch.optim.SGD(model.parameters(), rate, momentum=0.9), torch.Generator().manual_seed(0)
    pool = data.take(torch.arange(1500, len(data)))
    for _ in range(epochs):
        for part in torch.randperm(len(pool), generator=generator).split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(pool.inputs[part].float()), pool.labels[part]).backward()
            optimizer.step()
    return model


def others(data: harness.Dataset, chosen: Tensor) -> Tensor:
    """Ten thousand: the pictures that were not chosen, those of CIFAR-100, normalized alike, and the mirror images of those chosen and more."""
    rest = torch.ones(len(data), dtype=torch.bool)
    rest[chosen] = False
    more = harness.dataset("cifar100")
    raw = more.schema.to_raw(more.take(torch.arange(len(more))).inputs)
    left = data.take(rest.nonzero()[:, 0]).inputs
    mirrored = torch.cat([data.take(chosen).inputs, left]).flip(-1)
    return torch.cat([left, data.schema.to_network(raw), mirrored])[:OTHERS]


def area(inside: list[float], outside: list[float]) -> float:
    """Chance that a member leaves less than an other: AUC."""
    left, right = torch.tensor(inside)[:, None], torch.tensor(outside)[None]
    return float(((left < right).double() + 0.5 * (left == right)).mean())


def asked(observation: Observation, records: Tensor, count: int, **told: Any) -> dict[str, object]:
    """The answers, scored, with the seconds of the processor, which other work on the machine does not lengthen."""
    start = time.process_time()
    found = members(observation, records, **told)
    return scored(found, count) | {"cpu_seconds": time.process_time() - start, "records": len(records)}


def scored(found: Membership, count: int) -> dict[str, object]:
    """Of the answers, the first ``count`` of which are members."""
    named = {verdict.name: [a.verdict is verdict for a in found.answers] for verdict in Verdict}
    facts: dict[str, object] = {
        "members": {name: sum(hits[:count]) for name, hits in named.items() if any(hits[:count])},
        "others": {name: sum(hits[count:]) for name, hits in named.items() if any(hits[count:])},
        "rank": found.rank,
        "seconds": found.stats["seconds"],
        "reason": found.reason,
    }
    if not found.layer:
        return facts
    inside, outside = ([a.residual for a in part] for part in (found.answers[:count], found.answers[count:]))
    return facts | {
        "auc": area(inside, outside),
        "member_residual_max": max(inside),
        "other_residual": {"min": min(outside), "median": statistics.median(outside)},
    }


def noisy(observation: Observation, share: float) -> tuple[Observation, float]:
    """With Gaussian noise of this share of the root mean square of every tensor's entries, the same for all."""
    generator = torch.Generator().manual_seed(1)
    total = sum(float(t.square().sum()) for t in observation.update.values())
    deviation = share * (total / sum(t.numel() for t in observation.update.values())) ** 0.5
    update = {n: t + deviation * torch.randn(t.shape, generator=generator, dtype=t.dtype) for n, t in observation.update.items()}
    return replace(observation, update=update), deviation


options = harness.arguments(__doc__, sizes="900", epochs="1", noise="1e-3,1e-2,1e-1,3e-1,1", noise_batch=50)
results = harness.Results("members")
data = harness.dataset("cifar10")
generator = torch.Generator().manual_seed(0)
order = torch.randperm(1500, generator=generator)

for epochs in map(int, options.epochs.split(",")):
    for activation in ("gelu", "relu"):
        for dtype in (torch.float64, torch.float32):
            for size in map(int, options.sizes.split(",")):
                key = f"m={WIDTH} b={size} {activation} epochs={epochs} {str(dtype)[6:]}"
                if not list(results.missing([key])):
                    continue
                model, chosen = trained(WIDTH, data, activation, epochs).to(dtype), order[:size]
                batch = data.take(chosen)
                observation = FedSgd().observe(model, batch)
                records = torch.cat([batch.inputs, others(data, chosen)])
                facts = asked(observation, records, size)
                results.put(key, facts)
                print(key, facts, flush=True)

for name, protocol, size in (
    ("FedAvg of 300, 2 epochs, steps of 50", FedAvg(2, 50, 0.05), 300),
    ("FedAvg of 300, 2 epochs, steps of 50, momentum .9", FedAvg(2, 50, 0.05, 0.9), 300),
):
    if list(results.missing([name])):
        chosen = order[:size]
        batch = data.take(chosen)
        observation = protocol.observe(trained(WIDTH, data, "gelu", 1).double(), batch)
        facts = asked(observation, torch.cat([batch.inputs, others(data, chosen)]), size)
        results.put(name, facts)
        print(name, facts, flush=True)

for share in map(float, options.noise.split(",")):
    for told in (True, False):
        key = f"noise {share:g} b={options.noise_batch} {'deviation told' if told else 'deviation estimated'}"
        if list(results.missing([key])):
            chosen = order[: options.noise_batch]
            batch = data.take(chosen)
            observation, deviation = noisy(FedSgd().observe(trained(WIDTH, data, "gelu", 1).double(), batch), share)
            records = torch.cat([batch.inputs, others(data, chosen)[: 20 * len(chosen)]])
            reference = others(data, chosen)[-200:]
            facts = asked(observation, records, len(chosen), reference=reference, noise=deviation if told else None)
            results.put(key, facts)
            print(key, facts, flush=True)
