"""Turn results/*.json into docs/measurements.md and its figures: every published figure beside our own, each with its command."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import matplotlib as mpl

mpl.use("svg")
import against_page
import comparison_page
import defenses_page
import exposure_page
import honesty_page
import inversion_page
import matplotlib.pyplot as plt
import span_page
import tables_page
import thresholds_page

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
Cases = dict[str, dict[str, Any]]

REPORTED = {
    "mnist": ("99.1", "156"),
    "cifar10": ("106.6", "102"),
    "tinyimagenet": ("110.7", "84"),
    "imagenet224": ("125.4", "126"),
    "imagenet720": ("125.6", "156"),
}
"""SPEAR, NeurIPS 2024: PSNR in dB and seconds per batch on a GPU."""

PEELING = {
    "cifar10": (0.994, 0.666, 0.215),
    "cifar100": (1.0, 1.0, 0.247),
    "fashion": (1.0, 0.722, 0.048),
    "mnist": (0.484, 0.017, 0.002),
}
"""LT peeling (Shariati, Alambardar Meybodi, 2026): share of samples at b = 64, 128, 256."""


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *("| " + " | ".join(row) + " |" for row in rows)])


def paper(cases: Cases) -> str:
    rows = []
    for key, case in cases.items():
        psnr, seconds = REPORTED[key.split()[0]]
        time = case["seconds"]
        ours = f"{time['median']:.2f} s ({time['min']:.2f}–{time['max']:.1f})"
        rows.append(
            [
                key.split()[0],
                f"99 %, {psnr} dB, {seconds} s",
                f"{case['exact']} of {case['batches']}",
                f"{case['median_psnr']:.0f} dB",
                ours,
            ]
        )
    return table(["set", "reported (GPU)", "exact batches", "median of the worst PSNR in a batch", "time, median (range)"], rows)


def frontier(cases: Cases) -> str:
    figure, axes = plt.subplots(figsize=(7, 4))
    for name, line in {"cifar10": "-", "mnist": "--", "gaussian": ":"}.items():
        for width in (200, 400, 1000, 2000):
            points = sorted((c["size"], c["exact"] / c["batches"]) for c in cases.values() if c["set"] == name and c["width"] == width)
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", linestyle=line, label=f"{name}, m={width}")
    axes.set(xlabel="batch size", ylabel="share of batches wholly exact in 60 s", ylim=(-0.05, 1.05), xscale="log")
    axes.axvline(25, color="gray", linewidth=1)
    axes.text(25.5, 0.03, "SPEAR's sampling stops near 25", color="gray", fontsize=8)
    axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(DOCS / "figures" / "frontier.svg", metadata={"Date": None})
    rows = [
        [
            key,
            f"{c['exact']} of {c['batches']}",
            f"{c['share']:.3f}",
            f"{c['seconds']['median']:.1f} s ({c['seconds']['min']:.1f}–{c['seconds']['max']:.0f})",
        ]
        for key, c in cases.items()
    ]
    return "![frontier](figures/frontier.svg)\n\n" + table(["case", "exact batches", "share of samples", "time, median (range)"], rows)


def noise(cases: Cases) -> str:
    rows = [
        [
            key,
            f"{c['median_psnr']:.0f} dB",
            f"{c['share']:.2f}",
            f"{c['proved']:.2f}",
            ", ".join(sorted({o["status"] for o in c["outcomes"]})),
        ]
        for key, c in cases.items()
    ]
    return table(["update", "median of the worst PSNR in a batch", "share above 100 dB", "proved", "statuses"], rows)


def training(cases: Cases) -> str:
    rows = [
        [
            key,
            f"{c['accuracy']:.2f}",
            f"{c['exact']} of {c['batches']}",
            f"{c['share']:.2f}",
            f"{c['share'] / c['visible']:.2f}",
            f"{c['proved']:.2f}",
            "; ".join(c["reasons"])[:160],
        ]
        for key, c in cases.items()
    ]
    return table(["case", "accuracy", "exact batches", "share of samples", "of the visible", "proved", "reasons given"], rows)


def side_by_side(cases: Cases) -> str:
    def ratio(case: dict[str, Any]) -> str:
        r = case["ratio"]
        return f"{r['median']:.0f} ({r['min']:.0f}–{r['max']:.0f})" if isinstance(r, dict) else f"{r:.0e}, extrapolated"

    return table(["batch", "sampling takes so many times as long as auto"], [[key, ratio(case)] for key, case in cases.items()])


def cost(cases: Cases) -> str:
    rows = [
        [
            key,
            f"{c['floor_seconds']:.2f} s",
            f"{c['total_seconds']:.2f} s ({c['ratio_to_floor']:.1f} floors)",
            ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in c["stages_seconds"].items()),
            f"{c['update_gigabytes']:.2f} GB",
            f"{c['extra_memory_share_of_update']:.2f}",
        ]
        for key, c in cases.items()
    ]
    return table(["set", "floor", "whole attack", "stages, s", "update", "extra memory / update"], rows)


def shallow(cases: Cases) -> str:
    rows = []
    for key, case in cases.items():
        name = key.split()[0]
        size = next(int(part.removeprefix("b=")) for part in key.split() if part.startswith("b="))
        reported = PEELING[name][(64, 128, 256).index(size)] if name in PEELING and size in (64, 128, 256) else None
        time = case["seconds"]["median"] if isinstance(case["seconds"], dict) else case["seconds"]
        rows.append([key, f"{reported}", f"{case['share']:.3f}", f"{time:.1f} s"])
    return table(["case", "peeling alone, reported", "share of samples", "time, median"], rows)


def rounds(cases: Cases) -> str:
    """A grid a data set and type: rows E and mini-batch, columns the learning rate."""
    parts = []
    for name, dtype in sorted({(c["set"], c["dtype"]) for c in cases.values()}):
        grid = {
            (c["epochs"], c["mini"], c["rate"]): c
            for c in cases.values()
            if (c["set"], c["dtype"], c["protocol"]) == (name, dtype, "fedavg")
        }
        rates = sorted({rate for _, _, rate in grid}, key=lambda rate: (isinstance(rate, str), -float(str(rate).split()[0])))
        rows = [
            [
                f"{epochs}",
                f"{mini}",
                *(_round_cell(grid[epochs, mini, rate], dtype) if (epochs, mini, rate) in grid else "" for rate in rates),
            ]
            for epochs, mini in sorted({(epochs, mini) for epochs, mini, _ in grid})
        ]
        head = ["E", "mini-batch", *(f"learning rate {rate}" for rate in rates)]
        what = (
            "exact batches, median of the worst PSNR"
            if dtype == "float64"
            else "batches with every sample above 60 dB, median of the worst PSNR"
        )
        parts.append(f"### FedAvg, {name}, {dtype}: {what}, statuses\n\n{table(head, rows)}")
    sums = [
        [
            key,
            f"{c['exact']} of {c['batches']}",
            f"{c['above_60_dB']} of {c['batches']}",
            f"{c['median_psnr']:.0f} dB",
            _statuses(c),
            f"{c['seconds']['median']:.1f} s",
        ]
        for key, c in cases.items()
        if c["protocol"] == "secure_aggregation"
    ]
    head = ["sum over clients", "exact batches (above 100 dB)", "above 60 dB", "median of the worst PSNR", "statuses", "time, median"]
    return "\n\n".join([*parts, table(head, sums)])


def _round_cell(case: dict[str, Any], dtype: str) -> str:
    count = case["exact"] if dtype == "float64" else case["above_60_dB"]
    return f"{count}/{case['batches']}, {case['median_psnr']:.0f} dB, {_statuses(case)}"


def _statuses(case: dict[str, Any]) -> str:
    return ", ".join(f"{status.lower()} {count}" for status, count in case["statuses"].items())


SECTIONS: dict[str, tuple[str, Callable[[Cases], str]]] = {
    "paper_table": ("The SPEAR paper's table: m = 200, b = 20, six layers", paper),
    "side_by_side": ("Against blind sampling, in one process", side_by_side),
    "frontier": ("How far the batch can grow", frontier),
    "shallow": ("Shallow networks: two layers, width 1000", shallow),
    "noise": ("Noise and rounding: b = 20, m = 200", noise),
    "training": ("Trained networks", training),
    "memorized": ("Networks that know the batch by heart: Adam, 250 steps on 130 samples", training),
    "rounds": ("Real rounds: FedAvg of 20 samples, and sums over ten clients", rounds),
    "cost": ("Where the time goes", cost),
}

parts = ["# Measurements\n\nWritten by `python benchmarks/write_docs.py` from `benchmarks/results/`; nothing here was typed by hand.\n"]
for name, (title, write) in SECTIONS.items():
    path = HERE / "results" / f"{name}.json"
    if path.exists():
        content = json.loads(path.read_text())
        machine = harness.machine(content["environment"])
        parts.append(f"## {title}\n\n`python benchmarks/{name}.py` ({machine})\n\n{write(content['cases'])}\n")
(DOCS / "measurements.md").write_text("\n".join(parts))
defenses_page.fill()
honesty_page.fill()
inversion_page.fill()
comparison_page.fill()
span_page.fill()
thresholds_page.fill()
against_page.fill()
tables_page.fill()
exposure_page.fill()
