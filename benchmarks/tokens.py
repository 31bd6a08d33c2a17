"""Which tokens a batch held, on random clients who do all that could move a row that nobody looked up: how many are named, and how many falsely."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import harness
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unbatch.auditing import tokens
from unbatch.errors import UnbatchError
from unbatch.gradients import capture
from unbatch.importers import load_observation
from unbatch.types import LocalTraining, Observation

OPTIMIZERS: dict[str, Callable[[Any, float, float], torch.optim.Optimizer]] = {
    "sgd": lambda p, rate, decay: torch.optim.SGD(p, rate, weight_decay=decay),
    "momentum": lambda p, rate, decay: torch.optim.SGD(p, rate, momentum=0.9, weight_decay=decay),
    "adam": lambda p, rate, decay: torch.optim.Adam(p, rate, weight_decay=decay),
    "adamw": lambda p, rate, decay: torch.optim.AdamW(p, rate, weight_decay=decay),
}


class Reader(nn.Module):
    """A table of tokens, and the mean of what it gives."""

    def __init__(self, rows: int, numbers: int, start: str) -> None:
        super().__init__()
        self.tokens, self.head = nn.Embedding(rows, numbers), nn.Linear(numbers, 4)
        with torch.no_grad():
            weight = self.tokens.weight
            if start == "all alike":
                weight.fill_(0.3)
            elif start == "half of them bfloat16":
                weight[: rows // 2] = weight[: rows // 2].bfloat16().float()
            elif start == "some are ones":
                weight[::5] = 1.0
            elif start == "some are zeros":
                weight[::7] = 0.0
            elif start == "small":
                weight.mul_(0.02)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.tokens(x)).mean(dim=1))


STARTS = ("normal", "all alike", "half of them bfloat16", "some are ones", "some are zeros", "small")


def noisy(model: nn.Module, x: Tensor, y: Tensor, draw: random.Random, pruned: bool) -> Observation:
    """A gradient with noise on all of it, of which only the largest numbers may be left."""
    size, share = draw.choice([1e-4, 1e-2, 1.0, 10.0]), draw.choice([0.2, 0.5, 0.9, 0.99, 0.999]) if pruned else 0.0
    update = {name: t + size * t.std() * torch.randn_like(t) for name, t in capture(model, x, y).items()}
    update = {name: t * (t.abs() >= t.abs().flatten().quantile(share)) for name, t in update.items()}
    return Observation(model, update, (x.shape[1],))


def trained(model: nn.Module, x: Tensor, y: Tensor, draw: random.Random) -> tuple[str, Observation]:
    """What is sent after steps of an optimizer in some precision, and told, not told, or told wrong."""
    name, dtype = draw.choice(list(OPTIMIZERS)), draw.choice([torch.float32, torch.bfloat16, torch.float64])
    steps, decay, rate = draw.choice([1, 3, 20]), draw.choice([0, 1e-6, 1e-4, 1e-2, 0.1]), draw.choice([0.1, 1e-3, 1e-5])
    client = copy.deepcopy(model).to(dtype)
    optimizer = OPTIMIZERS[name](client.parameters(), rate, decay)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(client(x), y).backward()
        optimizer.step()
    sent = draw.choice([None, None, torch.float32, torch.float16])
    after = {key: tensor if sent is None else tensor.to(sent) for key, tensor in client.state_dict().items()}
    how = draw.choice(["told", "not told", "wrong"])
    training = LocalTraining(1 if how == "wrong" else steps, None, rate if how == "told" else None)
    told: dict[str, Any] = {"weight_decay": decay} if how == "told" and decay else {}
    kind = name if name.startswith("adam") else "sgd"
    made = load_observation(model, after, (x.shape[1],), kind="weights", training=training, optimizer=kind, **told)  # type: ignore[arg-type]
    return f"{name}, decay" if decay else name, made


def case(seed: int) -> tuple[str, dict[str, int]]:
    """One client: what it did, and what is named of it."""
    draw = random.Random(seed)  # noqa: S311
    torch.manual_seed(seed)
    rows = draw.choice([4, 10, 50, 300])
    model = Reader(rows, draw.choice([1, 2, 8, 32]), draw.choice(STARTS))
    x = torch.randint(rows, (draw.choice([1, 6]), 3))
    y, true = torch.arange(len(x)) % 4, set(x.flatten().tolist())
    kind = draw.choice(["noise", "pruned noise", *4 * ["trained"]])
    try:
        if kind == "trained":
            kind, observation = trained(model, x, y, draw)
        else:
            observation = noisy(model, x, y, draw, pruned=kind != "noise")
    except UnbatchError:
        return "refused", {"clients": 1}
    named = {token for found in tokens(observation) for token in found.used.tolist()}
    return kind, {"clients": 1, "tokens": len(true), "named": len(named & true), "false": len(named - true)}


def usual(name: str, dtype: torch.dtype, decay: float) -> dict[str, int]:
    """A table of 5,000 rows of 64 numbers, a batch of 16 texts of 32 words, three steps: what is named of it."""
    torch.manual_seed(0)
    model, words = Reader(5000, 64, "small"), (torch.rand(16, 32).square() * 5000).long()
    client, rate = copy.deepcopy(model).to(dtype), 1e-3 if name.startswith("adam") else 0.1
    optimizer = OPTIMIZERS[name](client.parameters(), rate, decay)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(client(words), torch.arange(16) % 4).backward()
        optimizer.step()
    kind = name if name.startswith("adam") else "sgd"
    training = LocalTraining(3, None, rate, 0.9 if name == "momentum" else 0.0)
    made = load_observation(model, client.state_dict(), (32,), kind="weights", training=training, optimizer=kind)  # type: ignore[arg-type]
    true = set(words.flatten().tolist())
    named = {token for found in tokens(made) for token in found.used.tolist()}
    return {"tokens": len(true), "named": len(named & true), "false": len(named - true)}


options = harness.arguments(__doc__, cases="1500", first="0")
results = harness.Results("tokens")
for name in OPTIMIZERS:
    for dtype in (torch.float32, torch.bfloat16):
        for decay in (0.0, 1e-2):
            key = f"5,000 rows, {name}, {str(dtype)[6:]}, decay {decay:g}"
            if list(results.missing([key])):
                results.put(key, facts := usual(name, dtype, decay))
                print(key, facts, flush=True)

total: dict[str, dict[str, int]] = {}
for seed in range(int(options.first), int(options.first) + int(options.cases)):
    kind, facts = case(seed)
    sums = total.setdefault(kind, {})
    for key, value in facts.items():
        sums[key] = sums.get(key, 0) + value
    if facts.get("false"):
        print("false", seed, kind, facts, flush=True)
for kind, sums in sorted(total.items()):
    results.put(f"{kind}, seeds {options.first} to {int(options.first) + int(options.cases) - 1}", dict(sums))
    print(kind, sums)
