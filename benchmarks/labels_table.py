"""Print the tables of docs/labels.md from results/labels.json and labels_rounds.json: reported, reference as measured, and ours.

python benchmarks/labels_table.py

"reported" is what the run logs of the authors of iLRG hold, "reference" their code as measured for this project on fresh
initializations; both are LnAcc, or LnAcc/IRec where two numbers stand. Everything else comes from benchmarks/labels.py and
benchmarks/labels_rounds.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "labels.json"
ROUNDS = Path(__file__).parent / "results" / "labels_rounds.json"
OUTCOMES = ("right", "wrong", "refused")
MLP = "mlp:width=300,depth=3"

KNOWN: dict[str, tuple[str, str]] = {
    f"mnist {MLP} K=8 random": ("1.000", ""),
    f"mnist {MLP} K=24 random": (".994", ".985/1.000"),
    f"mnist {MLP} K=64 random": (".598", ".665/.967"),
    f"mnist {MLP} K=128 random": (".386", ".300/.944"),
    f"mnist {MLP} K=512 random": ("", ".035/.898"),
    f"mnist {MLP} K=4096 random": ("", ".005/.889"),
    f"mnist {MLP} K=64 dirichlet:0.3": ("", ".950/.995"),
    f"mnist {MLP} K=512 dirichlet:0.3": ("", ".555/.989"),
    f"mnist {MLP} K=4096 dirichlet:0.3": ("", ".180/.991"),
    f"mnist {MLP} K=10 unique": ("", ".700/.840"),
    f"mnist {MLP} K=64 imbalanced": ("", "1.000/1.000"),
    "cifar100 lenet5 K=24 random": ("1.000", ""),
    "cifar100 lenet5 K=64 random": ("1.000", "1.000"),
    "cifar100 lenet5 K=256 random": (".997", ".995/1.000"),
    "cifar100 lenet5 K=1024 random": (".851", ".895/.995"),
    "cifar100 lenet5 K=4096 random": ("", ".137/.969"),
    "cifar100 lenet5 K=512 dirichlet:0.05": ("", ".997/1.000"),
    "cifar100 lenet5 K=4096 dirichlet:0.05": ("", ".977/1.000"),
    "cifar100 lenet5 K=100 unique": (".911", ".921/1.000"),
    f"mnist {MLP} K=8 random trained=100": (".555/.613", ".510/.375"),
    f"mnist {MLP} K=64 random trained=100": ("", ".035/.335"),
    f"mnist {MLP} K=512 random trained=100": ("", ".000/.264"),
    f"mnist {MLP} K=64 dirichlet:0.3 trained=100": ("", ".375/.374"),
    f"mnist {MLP} K=8 random trained=1000": (".485/.450", ".460/.319"),
    f"mnist {MLP} K=64 random trained=1000": ("", ".040/.276"),
    f"mnist {MLP} K=512 random trained=1000": ("", ".000/.217"),
    f"mnist {MLP} K=64 dirichlet:0.3 trained=1000": ("", ".360/.216"),
    f"mnist {MLP},activation=sigmoid K=64 random trained=1000": ("", ".025/.390"),
    "cifar100 lenet5 K=64 random trained=300": ("", ".777/.738"),
    "cifar100 lenet5 K=256 random trained=300": ("", ".114/.330"),
    "cifar100 lenet5 K=64 random trained=1500": ("", ".690/.688"),
    "cifar100 lenet5 K=256 random trained=1500": ("", ".157/.402"),
}
for _activation, _values in {"leaky_relu": ".665 .030", "silu": ".755 .055", "sigmoid": ".980 .245", "tanh": ".335 .020"}.items():
    for _size, _value in zip((64, 512), _values.split(), strict=True):
        KNOWN[f"mnist {MLP},activation={_activation} K={_size} random"] = ("", _value)
for _activation, _values in {"leaky_relu": ".995 .893", "silu": "1.000 .973", "sigmoid": "1.000 1.000", "tanh": "1.000 .655"}.items():
    for _size, _value in zip((256, 1024), _values.split(), strict=True):
        KNOWN[f"cifar100 lenet5:activation={_activation} K={_size} random"] = ("", _value)
for _level, _mnist, _cifar in (
    ("noise:1e-4", ".945/.985", "1.000/1.000"),
    ("noise:1e-3", ".975/.998", "1.000/1.000"),
    ("noise:1e-2", ".780/.923", ".972/.975"),
    ("prune:0.1", ".810/.938", ".989/1.000"),
    ("prune:0.4", ".105/.490", ".985/1.000"),
    ("prune:0.8", ".105/.475", ".971/.942"),
):
    KNOWN[f"mnist {MLP} K=24 random {_level}"] = ("", _mnist)
    KNOWN[f"cifar100 lenet5 K=24 random {_level}"] = ("", _cifar)

COLUMNS = ("anchored", "ilrg", "ilrg, published rounding", "ilrg:uniform=true", "llg", "floor: guess", "floor: zeros")
HEADS = ("**anchored**", "its EM", "iLRG", "iLRG, own rounding", "1/C", "LLG", "guess K/C", "zeros")


def cell(scores: dict[str, dict[str, float]], name: str) -> str:
    if name not in scores:
        return "n/a"
    return "/".join(f"{scores[name][kind]:.3f}".removeprefix("0") for kind in ("LnAcc", "IRec"))


def line(key: str, found: dict[str, Any], default: bool) -> str:
    reported, reference = KNOWN.get(key.removesuffix(" float64"), ("", ""))
    own = [cell(found["scores"], name) for name in COLUMNS]
    first = [f"**{own[0]}**", rate(found, "anchored")]
    if default:
        first = [f"**{cell(found['scores'], 'default')}**", rate(found, "default"), f"{found['proved']:.0%}", *first]
    label = key.replace(MLP, "MLP").replace(" random", "").replace(" mlp", "").replace(" float64", "")
    return f"| {label} | {reported} | {reference} | " + " | ".join([*first, *own[1:], str(found["tries"])]) + " |"


def rate(found: dict[str, Any], name: str) -> str:
    return f"{found['scores'][name]['EM']:.2f}" if name in found["scores"] else "n/a"


def fedavg_line(key: str, found: dict[str, Any]) -> str:
    moved, still = (
        cell(found["scores"], name) + (f" ({times} refused)" if (times := found["refused"].get(name)) else "")
        for name in ("moved", "still")
    )
    told = "n/a" if found["expected_error"] is None else f"{found['error']:.2f} / {found['expected_error']:.2f} ({found['sure']})"
    return f"| {key.replace(' random', '')} | **{moved}** | {still} | {cell(found['scores'], 'guess')} | {told} |"


def table(heads: tuple[str, ...], lines: list[str]) -> None:
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    print("\n".join(lines) + "\n")


def main() -> None:
    cases = {key: found for key, found in json.loads(RESULTS.read_text())["cases"].items() if "scores" in found}
    groups = {
        "Untrained": [key for key in cases if "trained" not in key and "noise:" not in key and "prune" not in key],
        "Trained": [key for key in cases if "trained" in key and "float64" not in key],
        "Trained, clients that compute in float64": [key for key in cases if "float64" in key],
        "Defended, untrained": [key for key in cases if "noise:" in key or "prune:" in key],
    }
    for title, keys in groups.items():
        default = "Trained" in title
        print(f"### {title}\n")
        more = ("**default**", "its EM", "proved") if default else ()
        table(("cell", "reported", "reference", *more, *HEADS, "tries"), [line(key, cases[key], default) for key in keys])
    rounds = json.loads(ROUNDS.read_text())["cases"]
    print("### Local training and sums over clients\n")
    heads = ("cell", "**along the way**", "as if the model stood still", "guess K/C", "error / expected (sure)")
    table(heads, [fedavg_line(key, found) for key, found in rounds.items() if "scores" in found])
    print("### An unknown factor\n")
    scaled = [key for key in rounds if key.startswith("unknown")]
    lines = [f"| {key.removeprefix('unknown factor, ')} | " + " | ".join(str(rounds[key][x]) for x in OUTCOMES) + " |" for key in scaled]
    table(("cell", *OUTCOMES), lines)
    print("### What the last layer of a trained network can tell at best\n")
    bounds = [found["IRec"] | {"steps": found["steps"]} for found in rounds.values() if "IRec" in found]
    names = ("guess", "error", "root of it", "logarithm of it")
    lines = [f"| {found['steps']} | " + " | ".join(f"{found[name]:.3f}" for name in names) + " |" for found in bounds]
    table(("steps of training", "guess K/C", "error", "root of it", "logarithm of it"), lines)


if __name__ == "__main__":
    main()
