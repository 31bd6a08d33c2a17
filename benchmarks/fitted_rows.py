"""How far samples that were fitted to rows are off, beside what the judge says: the constant ``evidence.accuracy.FITTED`` rests on it.

Random columns of all densities and strengths, some rows spoiled by one to six missing samples, by equal or very different amounts, others
clean. Wrong samples are fitted to rows that were chosen for it: to as few as determine them or to more, the least or the most spoiled,
by least squares and by weights that seek few large rests. Of each set the largest ratio of a sample's error to the one that is stated.
"""

import harness
import torch
from torch import Generator, Tensor

from unbatch.evidence.accuracy import FITTED, from_finer_rows

options = harness.arguments(__doc__, trials=400)


def drawn(generator: Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def chosen(spoil: Tensor, samples: int, generator: Generator) -> dict[str, Tensor]:
    """Rows to fit to, by the name of the choice."""
    rows, order = len(spoil), spoil.argsort()
    spoiled, mixed = order[spoil[order] > 0], torch.randperm(len(spoil), generator=generator)
    sizes = {"half": samples // 2, "one less": samples - 1, "as many": samples, "two more": samples + 2, "twice": 2 * samples, "all": rows}
    found = {f"any, {name}": mixed[:size] for name, size in sizes.items()}
    for name, size in sizes.items():
        found |= {f"least spoiled, {name}": spoiled[:size], f"most spoiled, {name}": spoiled[-size:]}
    return {name: which for name, which in found.items() if len(which) > 1}


def trial(seed: int) -> dict[str, float]:
    """For every choice, the largest error beside the one stated; 0 where nothing is stated."""
    generator = Generator().manual_seed(seed)
    rows, samples, missing = (100, 160, 250, 400)[seed % 4], (10, 20, 40)[seed % 3], (1, 3, 6)[seed // 3 % 3]
    clean = int(rows * (0.2, 0.35, 0.5, 0.7, 0.9)[seed // 5 % 5])
    dense = torch.rand((rows, samples), generator=generator) < (1.0, 0.5, 0.2)[seed // 2 % 3]
    columns = drawn(generator, rows, samples) * dense * (2 * drawn(generator, 1, samples)).exp()
    uneven = ((0.0, 2.0, 5.0)[seed // 7 % 3] * drawn(generator, rows, 1)).exp()
    spoil = 1e-8 * drawn(generator, rows, missing) * uneven * (torch.arange(rows) >= clean)[:, None]
    inputs, gone = drawn(generator, samples, 60), drawn(generator, missing, 60)
    pollution, found = spoil @ gone, {}
    for name, which in chosen(spoil.norm(dim=1), samples, generator).items():
        off = torch.linalg.pinv(columns[which], rtol=1e-12) @ pollution[which]
        for _ in range(4 * (seed % 2)):
            weight = 1 / (pollution - columns @ off).norm(dim=1, keepdim=True).clamp_min(1e-12)
            off = off + torch.linalg.pinv(columns * weight, rtol=1e-12) @ ((pollution - columns @ off) * weight)
        parts = columns.abs() @ (inputs + off).norm(dim=1)
        alive = parts > 0
        rest = (pollution - columns @ off)[alive]
        stated = from_finer_rows(columns[alive], inputs + off, rest, parts[alive], 1e-15 * parts[alive])
        error = off.norm(dim=1) / (inputs + off).norm(dim=1)
        found[name] = float((error / stated)[error > 1e-12].max()) if bool((error > 1e-12).any()) else 0.0
    return found


results = harness.Results("fitted_rows")
for key in results.missing(["fits"]):
    ratios = [(ratio, name, seed) for seed in range(options.trials) for name, ratio in trial(seed).items()]
    stated = [ratio for ratio, _, _ in ratios if ratio > 0]
    ratio, name, seed = max(ratios)
    results.put(key, {"fits": len(ratios), "stated": len(stated), "largest": ratio, "by": name, "seed": seed, "factor": FITTED})
    print(f"{len(ratios)} fits, {len(stated)} with an error stated; the largest is {ratio:.2f} of it ({name}, seed {seed})")
