"""Files of a good round, spoiled in more than a hundred ways: each ends in one clear sentence or in a correct result.

Never a traceback, never a false verdict, nothing half-written, no code of a file run, no memory filled. All seeds are fixed. Here bytes and
tensors are spoiled; ``test_fuzz_files`` spoils what holds them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spoiled import FORMATS, Round, Tensors, files, written

# bytes


def truncated(content: bytes, dice: random.Random) -> bytes:
    return content[: dice.randrange(len(content))]


def flipped(content: bytes, dice: random.Random, many: int = 1) -> bytes:
    changed = bytearray(content)
    for _ in range(many):
        changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
    return bytes(changed)


def head_flipped(content: bytes, dice: random.Random) -> bytes:
    return flipped(content[:200], dice, 3) + content[200:]


def tail_flipped(content: bytes, dice: random.Random) -> bytes:
    return content[:-200] + flipped(content[-200:], dice, 3)


def shuffled(content: bytes, dice: random.Random) -> bytes:
    at = sorted(dice.sample(range(len(content)), 2))
    return content[at[0] : at[1]] + content[: at[0]] + content[at[1] :]


def repeated(content: bytes, dice: random.Random) -> bytes:
    at = dice.randrange(len(content))
    return content[:at] + content[at // 2 :]


BYTES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "truncated": truncated,
    "one bit": flipped,
    "forty bits": lambda content, dice: flipped(content, dice, 40),
    "bits of the head": head_flipped,
    "bits of the tail": tail_flipped,
    "moved": shuffled,
    "repeated": repeated,
}


@pytest.fixture
def played(tmp_path: Path) -> Round:
    return Round(tmp_path)


@pytest.mark.parametrize("how", FORMATS)
def test_the_round_that_all_cases_spoil_is_good(how: str, played: Round, capsys: pytest.CaptureFixture[str]) -> None:
    played.paths["update"].write_bytes(written(played.update, how))
    played.paths["weights"].write_bytes(written(played.weights, how))
    assert played.judge(played.audit(f"--truth={played.folder / 't.npz'}"), capsys.readouterr(), set()) == "RECONSTRUCTED"


@pytest.mark.parametrize("which", ["update", "weights"])
@pytest.mark.parametrize("how", FORMATS)
@pytest.mark.parametrize("damage", BYTES)
def test_damaged_bytes(damage: str, how: str, which: str, played: Round, capsys: pytest.CaptureFixture[str]) -> None:
    dice = random.Random(f"{damage} {how} {which}")  # noqa: S311  (a die for tests)
    good = written(getattr(played, which), how)
    for _ in range(3):
        played.paths[which].write_bytes(BYTES[damage](good, dice))
        before = files(played.folder)
        played.judge(played.audit(), capsys.readouterr(), before)
        for path in files(played.folder) - before - {played.out}:
            path.unlink()
        if played.out.exists():
            played.out.rmdir()


# tensors


def _with(r: Round, changes: dict[str, Tensor | None]) -> Tensors:
    """The update with tensors replaced, added, or taken away (None)."""
    return {name: tensor for name, tensor in {**r.update, **changes}.items() if tensor is not None}


def _each(r: Round, change: Callable[[Tensor], Tensor]) -> Tensors:
    return {name: change(tensor) for name, tensor in r.update.items()}


def _put(tensor: Tensor, value: float) -> Tensor:
    changed = tensor.clone()
    changed.view(-1)[len(changed) // 2] = value
    return changed


def _noise(r: Round, share: float, kept: float = 1.0) -> Tensors:
    generator = torch.Generator().manual_seed(7)
    return _each(r, lambda t: kept * t + share * t.abs().max() * torch.randn(t.shape, generator=generator, dtype=t.dtype))


def _other_model(r: Round) -> Tensors:
    return dict(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(16, 4)).double().state_dict())


TENSORS: dict[str, tuple[Callable[[Round], Any], str]] = {
    "NaN": (lambda r: _with(r, {"1.weight": _put(r.update["1.weight"], torch.nan)}), "NaN or infinity"),
    "infinity": (lambda r: _with(r, {"3.bias": _put(r.update["3.bias"], torch.inf)}), "NaN or infinity"),
    "minus infinity": (lambda r: _with(r, {"3.weight": _put(r.update["3.weight"], -torch.inf)}), "NaN or infinity"),
    "all NaN": (lambda r: _each(r, lambda t: t * torch.nan), "NaN or infinity"),
    "one huge number": (lambda r: _with(r, {"1.weight": _put(r.update["1.weight"], 1e300)}), ""),
    "all huge": (lambda r: _each(r, lambda t: t / t.abs().max() * 1e308), ""),
    "squares overflow": (lambda r: _each(r, lambda t: 1e150 * t), "numbers up to 1e+30"),
    "fourth powers overflow": (lambda r: _each(r, lambda t: 1e100 * t), "numbers up to 1e+30"),
    "squares underflow": (lambda r: _with(r, {"1.weight": 1e-165 * r.update["1.weight"]}), ""),
    "a faint layer": (lambda r: _with(r, {"1.weight": 1e-310 * r.update["1.weight"]}), ""),
    "all denormal": (lambda r: _each(r, lambda t: t * 1e-310), ""),
    "all tiny": (lambda r: _each(r, lambda t: t * 1e-200), ""),
    "all zero": (lambda r: _each(r, torch.zeros_like), "zeros in every tensor"),
    "a layer of zeros": (lambda r: _with(r, {"1.weight": torch.zeros(60, 12).double()}), ""),
    "a bias of zeros": (lambda r: _with(r, {"1.bias": torch.zeros(60).double()}), ""),
    "a last layer of zeros": (lambda r: _with(r, {"3.weight": torch.zeros(4, 60).double(), "3.bias": torch.zeros(4).double()}), ""),
    "constants": (lambda r: _each(r, torch.ones_like), ""),
    "negated": (lambda r: _each(r, torch.neg), ""),
    "a negated tensor": (lambda r: _with(r, {"1.bias": -r.update["1.bias"]}), ""),
    "scaled": (lambda r: _each(r, lambda t: 3 * t), ""),
    "a scaled tensor": (lambda r: _with(r, {"1.bias": 3 * r.update["1.bias"]}), ""),
    "a little noise": (lambda r: _noise(r, 1e-6), ""),
    "noise": (lambda r: _noise(r, 0.1), ""),
    "noise alone": (lambda r: _noise(r, 1.0, kept=0.0), ""),
    "one column": (lambda r: _with(r, {"1.weight": r.update["1.weight"][:, :1].expand(60, 12).contiguous()}), ""),
    "columns moved": (lambda r: _with(r, {"1.weight": r.update["1.weight"].roll(1, 1).contiguous()}), ""),
    "rows moved": (lambda r: _with(r, {"1.weight": r.update["1.weight"].roll(1, 0).contiguous()}), ""),
    "a bias moved": (lambda r: _with(r, {"1.bias": r.update["1.bias"].roll(1)}), ""),
    "the last bias moved": (lambda r: _with(r, {"3.bias": r.update["3.bias"].roll(1)}), ""),
    "transposed": (lambda r: _with(r, {"1.weight": r.update["1.weight"].T.contiguous()}), "its axes look swapped"),
    "all transposed": (lambda r: _each(r, lambda t: t.T.contiguous() if t.ndim == 2 else t), "its axes look swapped"),
    "flattened": (lambda r: _with(r, {"1.weight": r.update["1.weight"].flatten()}), "'1.weight' of shape (60, 12), got (720,)"),
    "a dimension more": (lambda r: _with(r, {"1.bias": r.update["1.bias"][None]}), "'1.bias' of shape (60,), got (1, 60)"),
    "a sample dimension": (lambda r: _each(r, lambda t: t[None].expand(3, *t.shape).contiguous()), "got (3, 60, 12)"),
    "a scalar": (lambda r: _with(r, {"1.bias": torch.tensor(1.0)}), "'1.bias' of shape (60,), got ()"),
    "nothing in it": (lambda r: _with(r, {"1.bias": torch.zeros(0).double()}), "'1.bias' of shape (60,), got (0,)"),
    "nothing in all": (lambda r: _each(r, lambda t: t[:0].contiguous()), "got (0, 12)"),
    "too narrow": (lambda r: _with(r, {"1.weight": r.update["1.weight"][:, :11].contiguous()}), "got (60, 11)"),
    "swapped tensors": (lambda r: _with(r, {"1.bias": r.update["3.bias"], "3.bias": r.update["1.bias"]}), "got (4,)"),
    "swapped names": (lambda r: dict(zip(reversed(r.update), r.update.values(), strict=True)), "of shape"),
    "missing": (lambda r: _with(r, {"3.bias": None}), "none for '3.bias'"),
    "all missing": (lambda _: {}, "none for '1.weight'"),
    "extra": (lambda r: _with(r, {"9.bias": torch.ones(2)}), "got '9.bias'"),
    "renamed": (lambda r: {name.replace("1.", "fc1."): t for name, t in r.update.items()}, "'fc1.weight'"),
    "upper case": (lambda r: {name.upper(): t for name, t in r.update.items()}, "'1.WEIGHT'"),
    "an odd name": (lambda r: _with(r, {"\n\x00\u202e": torch.ones(2)}), "only tensors named like parameters"),
    "a long name": (lambda r: _with(r, {"x" * 700: torch.ones(2)}), "only tensors named like parameters"),
    "many extra": (lambda r: {**r.update, **{f"x{i}": torch.ones(1) for i in range(2000)}}, "and 1997 more"),
    "another model's": (_other_model, "'0.weight'"),
    "the weights": (lambda r: r.weights, ""),
    "the weights negated": (lambda r: {name: -t for name, t in r.weights.items()}, ""),
    "whole numbers": (lambda r: _each(r, lambda t: (1e6 * t).to(torch.int64)), "floating-point numbers in '1.weight', got int64"),
    "bytes": (lambda r: _with(r, {"1.bias": torch.ones(60, dtype=torch.uint8)}), "got uint8"),
    "booleans": (lambda r: _with(r, {"1.bias": torch.ones(60, dtype=torch.bool)}), "got bool"),
    "complex numbers": (lambda r: _with(r, {"1.bias": torch.ones(60, dtype=torch.complex64)}), "got complex64"),
    "eight bits": (lambda r: _each(r, lambda t: t.to(torch.float8_e5m2)), "got float8_e5m2"),
    "half precision": (lambda r: _each(r, lambda t: t.half()), ""),
    "bfloat16": (lambda r: _each(r, lambda t: t.bfloat16()), ""),
    "single precision": (lambda r: _each(r, lambda t: t.float()), ""),
    "mixed precision": (lambda r: {n: t.to((torch.float16, torch.float64)[i % 2]) for i, (n, t) in enumerate(r.update.items())}, ""),
    "rounded to whole": (lambda r: _each(r, torch.round), ""),
    "signs": (lambda r: _each(r, torch.sign), ""),
    "squares": (lambda r: _each(r, torch.square), ""),
    "wrapped": (lambda r: {f"module.{name}": t for name, t in r.update.items()}, ""),
    "half wrapped": (lambda r: {("module." if "1" in n else "") + n: t for n, t in r.update.items()}, "'module.1.weight'"),
    "wrapped in something else": (lambda r: {f"net.{name}": t for name, t in r.update.items()}, "'net.1.weight'"),
    "by order": (lambda r: {f"arr_{i}": t for i, t in enumerate(r.update.values())}, ""),
    "by order with a gap": (lambda r: {f"arr_{i}": t for i, t in zip((0, 1, 2, 4), r.update.values(), strict=True)}, "got 'arr_0'"),
    "by another order": (lambda r: {f"arr_{3 - i}": t for i, t in enumerate(r.update.values())}, "array 0 to be '1.weight'"),
    "too few by order": (lambda r: {f"arr_{i}": t for i, t in enumerate([*r.update.values()][:3])}, "4 arrays"),
}


@pytest.mark.parametrize("case", TENSORS)
def test_tensors_that_cannot_be_or_should_not(case: str, played: Round, capsys: pytest.CaptureFixture[str]) -> None:
    spoil, complaint = TENSORS[case]
    played.paths["update"].write_bytes(written(spoil(played), "torch" if case == "an odd name" else "safetensors"))
    before = files(played.folder)
    ended = played.judge(played.audit(), capsys.readouterr(), before)
    assert complaint in ended


CONFUSED: dict[str, tuple[Callable[[Round], Tensors], list[str]]] = {
    "a gradient as difference": (lambda r: r.update, ["--update-is=difference"]),
    "a gradient as weights": (lambda r: r.update, ["--update-is=weights"]),
    "weights as difference": (lambda r: {n: t - 0.1 * r.update[n] for n, t in r.weights.items()}, ["--update-is=difference"]),
    "weights as gradient": (lambda r: {n: t - 0.1 * r.update[n] for n, t in r.weights.items()}, []),
    "a difference as gradient": (lambda r: _each(r, lambda t: -0.1 * t), []),
    "a difference as weights": (lambda r: _each(r, lambda t: -0.1 * t), ["--update-is=weights"]),
    "one step as many": (lambda r: _each(r, lambda t: -0.1 * t), ["--update-is=difference", "--local-epochs=5"]),
    "a batch as mini-batches": (lambda r: _each(r, lambda t: -0.1 * t), ["--update-is=difference", "--mini-batch=1", "--batch-size=3"]),
    "another learning rate": (lambda r: _each(r, lambda t: -0.1 * t), ["--update-is=difference", "--learning-rate=0.5"]),
    "another loss": (lambda r: r.update, ["--loss=nll"]),
    "another batch size": (lambda r: r.update, ["--batch-size=5"]),
    "a known factor as unknown": (lambda r: r.update, ["--unknown-factor"]),
    "nothing frozen": (lambda r: r.update, ["--rest-frozen"]),
    "damage under many steps": (
        lambda r: _with(r, {"1.bias": 1e17 * r.update["1.bias"]}),
        ["--update-is=difference", "--local-epochs=2", "--mini-batch=1", "--batch-size=3"],
    ),
    "a column gone under many steps": (
        lambda r: _with(r, {"1.weight": r.update["1.weight"] * (torch.arange(12) != 5)}),
        ["--update-is=difference", "--local-epochs=2"],
    ),
}


@pytest.mark.parametrize("case", CONFUSED)
def test_what_is_told_wrongly_proves_nothing_wrong(case: str, played: Round, capsys: pytest.CaptureFixture[str]) -> None:
    make, told = CONFUSED[case]
    played.paths["update"].write_bytes(written(make(played), "safetensors"))
    before = files(played.folder)
    played.judge(played.audit(*told), capsys.readouterr(), before)
