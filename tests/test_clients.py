"""Ten clients as people write them, from plain PyTorch files through every command: a verdict, a reason, an exit code, no traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import clients
from unbatch.cli import execute

PICTURES, TOKENS, ROWS = (1, 12, 12), (6,), (30,)


@dataclass(frozen=True)
class Client:
    """What a client did, and how its update must be read.

    Attributes:
        shape: of a sample.
        step: builds the optimizer.
        flags: what the server knows.
        members: the verdicts on records that were there and on others.
        loss: of the client.
        factory: in ``clients``, if not the name of the case.
        steps: of training on the whole batch.
        audit: exit codes that the attack may end with.
        train: whether the network is in train mode.
        prefix: before every name of the update, which then holds the adapters alone.
    """

    shape: tuple[int, ...]
    step: Callable[[Any], torch.optim.Optimizer]
    flags: str
    members: tuple[set[str], set[str]] | None
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
    factory: str = ""
    steps: int = 1
    audit: tuple[int, ...] = (0,)
    train: bool = False
    prefix: str = ""


FOUND, OPEN = ({"PRESENT"}, {"ABSENT"}), ({"UNDECIDED"}, {"UNDECIDED"})
BLENDS = ({"PRESENT", "IN_SPAN"}, {"ABSENT"})
"""Rows of a table so much alike that, to the rounding of float32 weights, a blend of two would pass for some of them."""
SGD = "--update-is weights --learning-rate 0.1"


def sgd(**settings: Any) -> Callable[[Any], torch.optim.Optimizer]:
    return lambda parameters: torch.optim.SGD(parameters, 0.1, **settings)


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, 1e-3)


CLIENTS = {
    "mlp": Client(PICTURES, sgd(), SGD, FOUND, audit=(2,)),
    "lenet": Client(PICTURES, sgd(momentum=0.9), f"{SGD} --momentum 0.9", FOUND, audit=(0, 2)),
    "weight decay, found": Client(PICTURES, sgd(weight_decay=5e-3), SGD, FOUND, factory="relu_mlp"),
    "weight decay, told": Client(ROWS, sgd(weight_decay=5e-3), f"{SGD} --weight-decay 5e-3", FOUND, factory="table", audit=(0, 2)),
    "label smoothing": Client(
        PICTURES,
        sgd(),
        f"{SGD} --loss cross_entropy:label_smoothing=0.1",
        FOUND,
        lambda outputs, labels: F.cross_entropy(outputs, labels, label_smoothing=0.1),
        factory="relu_mlp",
    ),
    "steps with momentum": Client(
        PICTURES, sgd(momentum=0.9), f"{SGD} --momentum 0.9 --local-epochs 3", ({"IN_SPAN"}, {"ABSENT"}), factory="relu_mlp", steps=3
    ),
    "Adam, float64": Client(
        PICTURES, adam, "--update-is weights --learning-rate 1e-3 --optimizer adam", FOUND, factory="double_mlp", audit=(0, 2)
    ),
    "resnet": Client(PICTURES, sgd(), SGD, OPEN, audit=(0, 2), train=True),
    "ViT": Client(PICTURES, sgd(), SGD, OPEN, factory="Vit", audit=(0, 2)),
    "GPT": Client(TOKENS, sgd(), SGD, OPEN, factory="Gpt"),
    "LoRA": Client(PICTURES, sgd(), f"{SGD} --rest-frozen", OPEN, factory="lora", audit=(0, 2)),
    "LoRA, as PEFT saves it": Client(
        PICTURES, sgd(), f"{SGD} --rest-frozen", OPEN, factory="lora", audit=(0, 2), prefix="base_model.model."
    ),
}


def write(folder: Path, client: Client, name: str) -> tuple[str, Tensor]:
    """The files of one round, as plain PyTorch writes them; the options that name them, and the records."""
    torch.manual_seed(3)
    factory = client.factory or name
    model: nn.Module = getattr(clients, factory)()
    torch.save(model.state_dict(), folder / "before.pt")
    model.train(client.train)
    dtype = next(model.parameters()).dtype
    records = torch.randint(50, (24, *client.shape)) if client.shape == TOKENS else torch.rand(24, *client.shape, dtype=dtype)
    optimizer = client.step([p for p in model.parameters() if p.requires_grad])
    for _ in range(client.steps):
        optimizer.zero_grad()
        client.loss(model(records[:6]), torch.arange(6) % 4).backward()
        optimizer.step()
    after = model.state_dict()
    if client.prefix:
        after = {client.prefix + name: tensor for name, tensor in after.items() if "lora_" in name}
    torch.save(after, folder / "after.pt")
    np.savez(folder / "records.npz", inputs=records.numpy())
    return f"--model {Path(clients.__file__)}:{factory} --weights {folder}/before.pt", records


@pytest.mark.parametrize("name", CLIENTS)
def test_every_command_says_what_is_so(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    client = CLIENTS[name]
    network, _ = write(tmp_path, client, name)
    shape = f"--input-shape {','.join(map(str, client.shape))}"
    update = f"--update {tmp_path}/after.pt --batch-size 6 {shape} {client.flags}" + (" --train-mode" if client.train else "")

    def run(command: str) -> tuple[int, str, str]:
        code = execute(command.split())
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        assert "bug in unbatch" not in err
        assert err.count("\n") < 4 or "--" in err, err
        return code, out, err

    code, out, err = run(f"exposure {network} {shape}")
    assert code in (0, 2)
    assert out if code == 0 else err.startswith("unbatch: expected")
    code, out, err = run(f"audit {network} {update} --attack spear:seconds=3 --out {tmp_path}/report --quiet")
    assert code in client.audit, err
    assert "reason" in out or "status" in out or "does not apply" in err
    code, out, err = run(f"labels {network} {update.replace(' --train-mode', '')} --attack none")
    assert code in (0, 2), err
    code, out, err = run(f"members {network} {update} --candidates {tmp_path}/records.npz --json")
    assert code == 0, err
    answers = json.loads(out)["answers"]
    found = {a["verdict"] for a in answers[:6]}, {a["verdict"] for a in answers[6:]}
    assert found == client.members, answers[0]["reason"] + " / " + answers[-1]["reason"]
    assert all(a["reason"] for a in answers)


REFUSED = {
    "weights as a gradient": ("mlp", sgd(), "", "--update-is weights"),
    "Adam as SGD": ("mlp", adam, SGD, "--optimizer adam"),
    "Adam in float32": ("mlp", adam, "--update-is weights --learning-rate 1e-3 --optimizer adam", "signs only"),
    "Adam without a rate": ("mlp", adam, "--update-is weights --optimizer adam", "learning rate"),
    "Adam at another rate": ("mlp", adam, "--update-is weights --learning-rate 0.1 --optimizer adam", "say --learning-rate 0.001"),
    "a norm that it is longer than": ("mlp", sgd(), f"{SGD} --clip-norm 1e-3", "check the norm and the learning rate"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_named(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    factory, step, flags, told = REFUSED[name]
    network, _ = write(tmp_path, Client(PICTURES, step, flags, None), factory)
    code = execute(f"labels {network} --update {tmp_path}/after.pt --batch-size 6 --input-shape 1,12,12 {flags}".split())
    err = capsys.readouterr().err
    assert code == 2
    assert told in err
    assert err.count("\n") == 1


def test_a_language_model_is_refused_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    model = clients.language_model()
    torch.save(model.state_dict(), tmp_path / "w.pt")
    torch.save({name: torch.randn_like(p) for name, p in model.named_parameters()}, tmp_path / "u.pt")
    network = f"--model {Path(clients.__file__)}:language_model --weights {tmp_path}/w.pt --update {tmp_path}/u.pt --input-shape 6"
    for command in ("audit", "labels", f"members --candidates {tmp_path}/none.npz"):
        code = execute([*command.split(), *network.split()])
        err = capsys.readouterr().err
        assert code == 2
        assert "one row of class scores a sample" in err


def test_the_gate_of_members_ends_with_the_houses_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network, records = write(tmp_path, CLIENTS["mlp"], "mlp")
    common = f"members {network} --update {tmp_path}/after.pt --input-shape 1,12,12 {SGD} --fail-on present"
    np.savez(tmp_path / "others.npz", inputs=records[6:].numpy())
    assert execute(f"{common} --batch-size 6 --candidates {tmp_path}/records.npz --out {tmp_path}/page".split()) == 3
    assert "Members found" in (tmp_path / "page" / "members.html").read_text(encoding="utf-8")
    assert execute(f"{common} --batch-size 6 --candidates {tmp_path}/others.npz".split()) == 0
    assert execute(f"{common} --candidates {tmp_path}/others.npz".split()) == 4
    assert "inconclusive" in capsys.readouterr().err
