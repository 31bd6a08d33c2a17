"""What a replay proves, and what it does not."""

import torch
from torch import nn

from unbatch.gradients import capture
from unbatch.proofs import prove
from unbatch.types import Observation


def at_a_kink() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A network of which one neuron sees a pre-activation of about 1e-8 on the first sample: on or off by rounding."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 60), nn.ReLU(), nn.Linear(60, 3)).double()
    x = torch.randn((16, 6), generator=generator, dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        model[0].bias[3] = 1e-8 - x[0] @ model[0].weight[3]
    return model, x, torch.arange(16) % 3


def test_a_neuron_at_its_kink_does_not_refute_a_float32_update() -> None:
    model, x, y = at_a_kink()
    update = {name: tensor.float() for name, tensor in capture(model, x, y).items()}
    nearby = x.clone()
    nearby[0] -= 1e-7 * model[0].weight[3].detach() / model[0].weight[3].detach().norm()  # type: ignore[union-attr]
    seen = Observation(model, update, (6,))
    assert (model[0](nearby[0]) > 0).logical_xor(model[0](x[0]) > 0).sum() == 1
    assert prove(seen, nearby, y, 2e-5).holds


def test_a_wrong_sample_is_refuted_however_near() -> None:
    model, x, y = at_a_kink()
    seen = Observation(model, {name: tensor.float() for name, tensor in capture(model, x, y).items()}, (6,))
    wrong = x.clone()
    wrong[1] += 1e-3
    assert not prove(seen, wrong, y, 2e-5).holds
    assert not prove(seen, x, y.flip(0), 2e-5).holds


def test_weights_of_samples_are_tried_where_even_shares_fail() -> None:
    model, x, y = at_a_kink()
    shares = torch.tensor([0.4, *[1.0] * 14, 1.6], dtype=torch.float64) / 16
    single = [capture(model, x[i : i + 1], y[i : i + 1]) for i in range(16)]
    update = {name: sum(w * g[name] for w, g in zip(shares, single, strict=True)) for name in single[0]}
    seen = Observation(model, update, (6,), factor_known=False)  # type: ignore[arg-type]
    assert not prove(seen, x, y, 1e-9).holds
    proof = prove(seen, x, y, 1e-9, shares)
    assert proof.holds
    assert "from 0.4 to 1.6 of an even share" in proof.remark
