"""Which tokens a batch held: known answers, and everything that could make a row move that nobody looked up."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import unbatch
from unbatch import plugins
from unbatch.errors import BadUpdate, Misuse
from unbatch.evidence.looked_up import by_whole_rows
from unbatch.importers import load_observation
from unbatch.lookups import tables
from unbatch.types import LocalTraining, Lookup, Observation

VOCABULARY, LENGTH = 50, 5


class Reader(nn.Module):
    """Tokens and places, and whatever else may be done with a table."""

    def __init__(self, kind: str = "") -> None:
        super().__init__()
        settings: dict[str, Any] = {"padding": {"padding_idx": 3}, "max norm": {"max_norm": 1.0}, "sparse": {"sparse": True}}.get(kind, {})
        self.tokens, self.places, self.kind = nn.Embedding(VOCABULARY, 16, **settings), nn.Embedding(9, 16), kind
        self.head = nn.Linear(16, VOCABULARY if kind == "tied" else 4)
        self.first, self.second = nn.Parameter(torch.zeros(4, VOCABULARY)), nn.Parameter(torch.randn(16, 4))
        self.register_buffer("map", torch.arange(VOCABULARY).roll(1))
        if kind == "tied":
            self.head.weight = self.tokens.weight
        self.tokens.requires_grad_(kind not in ("adapter", "frozen"))
        for parameter in (self.first, self.second):
            parameter.requires_grad_(kind == "adapter")

    def forward(self, x: Tensor) -> Tensor:
        table = self.tokens.weight
        x = self.map[x] if self.kind == "mapped" else torch.cat([torch.full_like(x[:, :1], 7), x], 1) if self.kind == "begun" else x
        seen = self.tokens(x) + self.places(torch.arange(x.shape[1]))
        if self.kind == "adapter":
            seen = seen + F.embedding(x, self.first.T) @ self.second.T
        if self.kind == "twice":
            seen = seen + self.tokens(x.flip(1))
        if self.kind == "a part":
            seen = seen + F.embedding(x % 10, table[:10])
        scores: Tensor = self.head(torch.tanh(seen).mean(dim=1))
        return scores + 1e-3 * table.square().mean() if self.kind == "regularized" else scores


def batch() -> tuple[Tensor, Tensor]:
    return torch.randint(4, 21, (6, LENGTH), generator=torch.Generator().manual_seed(1)), torch.arange(6) % 4


def reader(kind: str = "") -> Reader:
    torch.manual_seed(0)
    return Reader(kind)


def seen(model: nn.Module, change: Callable[[Tensor], Tensor] = lambda t: t) -> Observation:
    update = unbatch.capture(model, *batch())
    kept = {name: update[name] for name, p in model.named_parameters() if p.requires_grad}
    return Observation(model, {name: change(t.to_dense()) for name, t in kept.items()}, (LENGTH,), factor_known=False)


def only(found: tuple[Lookup, ...], table: str = "tokens.weight") -> Lookup:
    return next(lookup for lookup in found if lookup.table == table)


TRUE = sorted(set(batch()[0].flatten().tolist()))


@pytest.mark.parametrize("kind", ["", "padding", "max norm", "sparse", "twice"])
def test_the_tokens_are_those_of_the_batch(kind: str) -> None:
    found = unbatch.tokens(seen(reader(kind)))
    assert [lookup.table for lookup in found] == ["tokens.weight"], "a table of positions is no answer"
    assert (found[0].used.tolist(), found[0].names) == (TRUE, True)
    assert "may have been there all the same" in found[0].reason
    assert repr(found[0]) == f"Lookup({len(TRUE)} of 50 rows of 'tokens.weight')"


@pytest.mark.parametrize(
    ("kind", "told"), [("tied", "linear (a tied"), ("regularized", "square"), ("a part", "in a part of it"), ("frozen", "frozen")]
)
def test_a_table_that_enters_otherwise_says_nothing(kind: str, told: str) -> None:
    lookup = only(unbatch.tokens(seen(reader(kind))))
    assert lookup.proved == 0
    assert told in lookup.reason


def test_what_is_looked_up_but_no_token_is_not_named() -> None:
    mapped = only(unbatch.tokens(seen(reader("mapped"))))
    assert (mapped.used.tolist(), mapped.names) == ([token - 1 for token in TRUE], False)
    assert "not the token itself" in mapped.reason
    begun = only(unbatch.tokens(seen(reader("begun"))))
    assert begun.used.tolist() == [token for token in TRUE if token != 7]
    assert "looked up whatever the input" in begun.reason


def test_padding_is_never_named_and_a_row_without_gradient_is_not_called_absent() -> None:
    model = reader("padding")
    x, y = batch()
    x[:, 0] = 3
    update = unbatch.capture(model, x, y)
    update = {name: update[name] for name, p in model.named_parameters() if p.requires_grad}
    first = int(x[0, 1])
    update["tokens.weight"][first] = 0.0  # a gradient that cancels
    lookup = only(unbatch.tokens(Observation(model, update, (LENGTH,))))
    assert not {3, first} & set(lookup.used.tolist())
    assert "row 3 is padding" in lookup.reason
    assert "absen" not in lookup.reason


def test_an_adapter_of_an_embedding_names_tokens_by_its_columns() -> None:
    found = unbatch.tokens(seen(reader("adapter")))
    assert [(lookup.table, lookup.proved > 0) for lookup in found] == [("tokens.weight", False), ("first", True)]
    assert only(found, "first").used.tolist() == TRUE


STEPS: dict[str, tuple[Callable[[Any], torch.optim.Optimizer], int, dict[str, Any], str]] = {
    "SGD": (lambda p: torch.optim.SGD(p, 0.1), 1, {}, "by whole rows"),
    "momentum": (lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), 3, {}, "by whole rows"),
    "decay": (lambda p: torch.optim.SGD(p, 0.1, weight_decay=5e-3), 1, {}, "one and the same share"),
    "decay, told": (lambda p: torch.optim.SGD(p, 0.1, weight_decay=5e-3), 1, {"weight_decay": 5e-3}, "one and the same share"),
    "decay in steps": (lambda p: torch.optim.SGD(p, 0.1, weight_decay=5e-3), 4, {}, "one and the same share"),
    "Adam": (lambda p: torch.optim.Adam(p, 1e-3), 1, {"optimizer": "adam"}, "by whole rows"),
    "Adam in steps": (lambda p: torch.optim.Adam(p, 1e-3), 3, {"optimizer": "adam"}, "by whole rows"),
    "AdamW in steps": (lambda p: torch.optim.AdamW(p, 1e-3), 3, {"optimizer": "adamw"}, "one and the same share"),
    "Adam with decay": (lambda p: torch.optim.Adam(p, 1e-3, weight_decay=1e-2), 3, {"optimizer": "adam"}, "toward zero"),
}


def trained(model: nn.Module, step: Callable[[Any], torch.optim.Optimizer], steps: int, dtype: torch.dtype = torch.float32) -> Any:
    client, (x, y) = copy.deepcopy(model).to(dtype), batch()
    optimizer = step([p for p in client.parameters() if p.requires_grad])
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(client(x).float(), y).backward()
        optimizer.step()
    return client.state_dict(), optimizer.defaults["lr"]


@pytest.mark.parametrize("name", STEPS)
def test_optimizers_leave_the_rows(name: str) -> None:
    step, steps, told, reason = STEPS[name]
    after, rate = trained(reader(), step, steps)
    observation = load_observation(reader(), after, (LENGTH,), kind="weights", training=LocalTraining(steps, None, rate), **told)
    lookup = only(unbatch.tokens(observation))
    assert set(lookup.used.tolist()) <= set(TRUE)
    assert len(TRUE) - lookup.proved <= (6 if reason == "toward zero" else 0)
    assert reason in lookup.reason
    assert observation.only_moved == ("optimizer" in told)


@pytest.mark.parametrize("name", STEPS)
def test_half_precision_names_nobody_else(name: str) -> None:
    step, steps, told, _ = STEPS[name]
    after, rate = trained(reader(), step, steps, torch.bfloat16)
    training = LocalTraining(steps, None, rate)
    observation = load_observation(reader(), after, (LENGTH,), kind="weights", training=training, **told)
    lookup = only(unbatch.tokens(observation))
    assert set(lookup.used.tolist()) <= set(TRUE)
    assert any("bfloat16" in remark for remark in observation.remarks)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("size", [1e-4, 1e-2, 1.0])
def test_noise_and_pruned_noise_name_nobody_else(size: float, share: float) -> None:
    generator = torch.Generator().manual_seed(2)

    def noisy(tensor: Tensor) -> Tensor:
        tensor = tensor + size * tensor.std() * torch.randn(tensor.shape, generator=generator)
        return tensor * (tensor.abs() >= tensor.abs().flatten().quantile(share))

    assert set(only(unbatch.tokens(seen(reader(), noisy))).used.tolist()) <= set(TRUE)


@pytest.mark.parametrize("spec", ["pruning:share=0.5", "quantization:kind=int8", "quantization:kind=fp16", "clipping:norm=0.01"])
def test_defenses_that_spare_zeros_do_not_help(spec: str) -> None:
    clean = seen(reader())
    update = plugins.build("defenses", spec)(clean.update, torch.Generator().manual_seed(0))
    assert only(unbatch.tokens(Observation(clean.model, update, (LENGTH,), factor_known=False))).used.tolist() == TRUE


def test_one_zero_row_is_no_evidence() -> None:
    rows = torch.randn(40, 8)
    rows[5] = 0.0
    assert by_whole_rows(rows) == 0
    rows[10:30] = 0.0
    assert by_whole_rows(rows) > 24
    generator = torch.Generator().manual_seed(0)
    assert by_whole_rows(torch.randn(400, 8) * (torch.rand(400, 8, generator=generator) > 0.9)) < 24


def test_numbers_are_no_tokens() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    assert unbatch.tokens(Observation(net, unbatch.capture(net, torch.randn(2, 4), torch.tensor([0, 1])), (4,))) == ()


def test_adam_is_still_refused_where_there_is_no_table() -> None:
    net = nn.Sequential(nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, 4))
    after = {name: tensor + 1e-3 * torch.randn_like(tensor).sign() for name, tensor in net.state_dict().items()}
    for steps, told in ((1, "signs only"), (3, "several steps")):
        with pytest.raises((BadUpdate, Misuse), match=told):
            load_observation(net, after, (20,), kind="weights", optimizer="adam", training=LocalTraining(steps, None, 1e-3))
    later = {name: tensor + 1e-3 * torch.randn_like(tensor) for name, tensor in net.state_dict().items()}
    with pytest.raises(BadUpdate, match="no first step of Adam"):
        load_observation(net, later, (20,), kind="weights", optimizer="adam", training=LocalTraining(1, None, 1e-3))
    with pytest.raises(Misuse, match=r"say --learning-rate 0\.001"):
        load_observation(net, after, (20,), kind="weights", optimizer="adam", training=LocalTraining(1, None, 0.1))


def test_tables_are_told_apart() -> None:
    found = {
        table.weight: (table.by_input, table.named, int(table.fixed.sum())) for table in tables(reader("begun"), (LENGTH,), VOCABULARY)
    }
    assert found == {"tokens.weight": (True, True, 1), "places.weight": (False, True, LENGTH + 1)}
    model, state = reader(), torch.random.get_rng_state()
    tables(model, (LENGTH,), VOCABULARY)
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("defense", ["half pruned", "eight bits", "pruned noise"])
def test_decay_of_long_rows_that_survives_pruning_is_no_lookup(defense: str) -> None:
    """Rows of very different lengths: what weight decay does to the short ones is cut off by whole rows, and to the long ones is not."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(100, 16), nn.Flatten(), nn.Linear(96, 4))
    with torch.no_grad():
        net[0].weight *= 10 ** torch.empty(100, 1).uniform_(-3, 1)
    tokens, labels = torch.randint(100, (3, 6)), torch.tensor([0, 1, 2])
    loss = nn.functional.cross_entropy(net(tokens), labels) + 0.005 * sum(p.square().sum() for p in net.parameters())
    update = dict(zip([name for name, _ in net.named_parameters()], torch.autograd.grad(loss, list(net.parameters())), strict=True))
    for name, tensor in update.items():
        if defense == "eight bits":
            step = tensor.abs().max() / 127
            update[name] = (tensor / step).round() * step
        else:
            noisy = tensor if defense == "half pruned" else tensor + 1e-4 * torch.randn(tensor.shape)
            update[name] = noisy.where(noisy.abs() > noisy.abs().quantile(0.5 if defense == "half pruned" else 0.8), torch.zeros(()))
    (found,) = unbatch.tokens(Observation(net, update, (6,)))
    assert set(found.used.tolist()) <= set(tokens.flatten().tolist())
