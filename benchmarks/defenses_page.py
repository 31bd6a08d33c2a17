"""The tables, the figure and the sentences with numbers in docs/defenses.md, from results/defenses.json; write_docs.py calls this.

The page holds markers, ``<!-- NAME -->`` and ``<!-- end -->``; what stands between them is written anew.
"""

import json
import math
from pathlib import Path
from typing import Any

import harness
import matplotlib.pyplot as plt
from marked import fill_in

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
Cases = dict[str, dict[str, Any]]
SETS = {"cifar10": "CIFAR-10", "mnist": "MNIST"}
NAMED_CLIP = 1.0
ORDER = ("none", "clipping", "quantization", "gaussian_noise", "pruning", "batch")


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *("| " + " | ".join(row) + " |" for row in rows)])


def decibels(value: float) -> str:
    return "none" if math.isinf(value) else f"{value:.0f}"


def labels(case: dict[str, Any]) -> str:
    if not case["labels_answered"]:
        return "no answer"
    part = "" if case["labels_answered"] == case["batches"] else f", {case['labels_answered']} of {case['batches']} answered"
    return f"{case['labels']:.2f}{part}"


def epsilon(value: float) -> str:
    if math.isinf(value):
        return "∞"
    return f"{value:.2g}" if value < 1000 else f"{value:.0e}"


def rows(cases: Cases, name: str) -> str:
    found = [case for key, case in cases.items() if key.startswith(f"row {name} ")]
    chosen = sorted(found, key=lambda case: ORDER.index(case["row"].partition(":")[0].partition(" ")[0]))
    lines = [
        [
            f"`{case['row']}`" if ":" in case["row"] else case["row"],
            f"{case['exact']:.2f}",
            f"{decibels(case['worst_psnr'])} / {decibels(case['median_psnr'])}",
            f"{case['recognizable']:.2f}",
            f"{labels(case)} ({case['labels_floor']:.2f})",
            ", ".join(case["statuses"]),
        ]
        for case in chosen
    ]
    head = ["defense", "exact", "PSNR of the worst / median sample, dB", "above 20 dB", "labels (guess)", "status"]
    blind = chosen[0]["blind_psnr"]
    return f"{SETS[name]}; a guess without any update has {blind:.0f} dB.\n\n" + table(head, lines)


def grid(cases: Cases, name: str) -> list[dict[str, Any]]:
    return [case for key, case in cases.items() if key.startswith(f"dp {name} ")]


def privacy(cases: Cases, name: str) -> str:
    found = grid(cases, name)
    clips = sorted({case["clip"] for case in found})
    lines = []
    for noise in sorted({case["noise_multiplier"] for case in found}):
        at = {case["clip"]: case for case in found if case["noise_multiplier"] == noise}
        cells = [
            f"{decibels(c['worst_psnr'])} / {decibels(c['median_psnr'])}, {c['exact']:.2f}, {labels(c)}"
            for c in (at[clip] for clip in clips)
        ]
        lines.append([f"{noise:g}", epsilon(at[clips[0]]["epsilon"]), *cells])
    head = ["noise multiplier σ", "ε", *(f"C = {clip:g}: PSNR worst / median, exact, labels" for clip in clips)]
    floor = found[0]["labels_floor"]
    return f"{SETS[name]}; labels of a guess: {floor:.2f}.\n\n" + table(head, lines)


def costs(cases: Cases) -> list[dict[str, Any]]:
    found = [case for key, case in cases.items() if key.startswith("cost noise=")]
    return sorted(found, key=lambda case: case["noise_multiplier"])


def cost(cases: Cases) -> str:
    lines = [["no DP-SGD", "∞", f"{cases['cost undefended']['test_accuracy']:.3f}"]]
    lines += [[f"{c['noise_multiplier']:g}", epsilon(c["epsilon"]), f"{c['test_accuracy']:.3f}"] for c in costs(cases)]
    return table(["noise multiplier σ, C = 1", "ε", "accuracy on 1,000 test digits"], lines)


def closing(cases: Cases, name: str) -> str:
    """From which noise on the attack brings no sample above 20 dB."""
    found = sorted((case for case in grid(cases, name) if case["clip"] == NAMED_CLIP), key=lambda case: case["noise_multiplier"])
    open_ = [case for case in found if case["recognizable"] > 0]
    closed = [case for case in found if not open_ or case["noise_multiplier"] > open_[-1]["noise_multiplier"]]
    if not closed:
        return f"On {SETS[name]} the leak stays open at every noise measured."
    told = f"On {SETS[name]} our attack brings no sample above 20 dB from σ = {closed[0]['noise_multiplier']:g} on (ε = {epsilon(closed[0]['epsilon'])})"
    if open_:
        told += f"; at σ = {open_[-1]['noise_multiplier']:g} the median sample still has {open_[-1]['median_psnr']:.0f} dB"
    key = f"cost noise={closed[0]['noise_multiplier']:g}"
    if key in cases:
        told += f". The small model has an accuracy of {cases[key]['test_accuracy']:.3f} at that noise, {cases['cost undefended']['test_accuracy']:.3f} without"
    return told + "."


def figure(cases: Cases) -> str:
    drawing, (leak, price) = plt.subplots(2, 1, figsize=(7, 6), sharex=True)
    positions = {noise: i for i, noise in enumerate(sorted({case["noise_multiplier"] for case in grid(cases, "cifar10")}))}
    for color, name in zip(("C0", "C1"), SETS, strict=True):
        found = sorted((c for c in grid(cases, name) if c["clip"] == NAMED_CLIP), key=lambda case: case["noise_multiplier"])
        height = [max(0.0, min(case["median_psnr"], 110.0)) for case in found]
        leak.plot(
            [positions[case["noise_multiplier"]] for case in found], height, marker="o", color=color, label=f"{SETS[name]}, median sample"
        )
        leak.axhline(found[0]["blind_psnr"], color=color, linestyle=":", label=f"{SETS[name]}, a guess without the update")
    leak.set(ylabel="PSNR, dB (cut at 0 and 110)", title="What the attack gets of a batch of 20, and what closing it costs (C = 1)")
    leak.legend(fontsize=7)
    trained = costs(cases)
    price.plot(
        [positions[c["noise_multiplier"]] for c in trained],
        [c["test_accuracy"] for c in trained],
        marker="s",
        color="C2",
        label="MNIST, 784-100-10",
    )
    price.axhline(cases["cost undefended"]["test_accuracy"], color="C2", linestyle=":", label="without DP-SGD")
    for color, name in zip(("C0", "C1"), SETS, strict=True):
        told = sorted(
            (c for c in grid(cases, name) if c["clip"] == NAMED_CLIP and c["labels_answered"]), key=lambda case: case["noise_multiplier"]
        )
        share = [case["labels"] for case in told]
        price.plot(
            [positions[case["noise_multiplier"]] for case in told],
            share,
            "--",
            marker="x",
            color=color,
            label=f"labels restored, {SETS[name]}",
        )
    price.set(
        ylabel="test accuracy after 5 epochs; share of labels",
        ylim=(0, 1.02),
        xlabel="noise multiplier σ, and ε at δ = 1e-5 of the trained model",
    )
    ticks = [f"{c['noise_multiplier']:g}\nε {epsilon(c['epsilon'])}" for c in trained]
    price.set_xticks([positions[c["noise_multiplier"]] for c in trained], ticks, fontsize=7)
    price.legend(fontsize=7)
    drawing.tight_layout()
    drawing.savefig(DOCS / "figures" / "defenses.svg", metadata={"Date": None})
    plt.close(drawing)
    return "![what the attack gets against the noise, and the accuracy of a model trained with it](figures/defenses.svg)"


def fill() -> None:
    content = json.loads((HERE / "results" / "defenses.json").read_text())
    cases: Cases = content["cases"]
    machine = harness.machine(content["environment"])
    blocks = {
        "rows cifar10": rows(cases, "cifar10"),
        "rows mnist": rows(cases, "mnist"),
        "dp cifar10": privacy(cases, "cifar10"),
        "dp mnist": privacy(cases, "mnist"),
        "cost": cost(cases),
        "closing": " ".join(closing(cases, name) for name in SETS),
        "figure": figure(cases),
        "environment": f"`python benchmarks/defenses.py` ({machine}), {cases['row cifar10 none']['batches']} batches a row.",
    }
    fill_in(DOCS / "defenses.md", blocks)
