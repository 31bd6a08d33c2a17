"""What the gradient of the last layer tells of the labels: every label restorer is asked whether it would apply.

They are asked about an update of which only names, shapes and types are real, and, once the last layer is known to be readable, about
that layer alone, fed with features of the same signs: none of them looks at the rest, nor at the update's numbers before it starts.
"""

from __future__ import annotations

import torch
from torch import nn

from unbatch import plugins
from unbatch.advice import for_labels
from unbatch.errors import BadUpdate, Misuse
from unbatch.exposure.findings import LabelLeak, Restorer
from unbatch.exposure.tracing import USER_ERRORS, ParameterTrace
from unbatch.gradients import Loss
from unbatch.last_layer import LastLayer, last_layer, obstacle
from unbatch.types import Observation

__all__ = ["label_leak"]


def label_leak(model: nn.Module, input_shape: tuple[int, ...], loss: Loss, trace: ParameterTrace, refusal: str | None) -> LabelLeak:
    """Ask all restorers.

    Args:
        model: as broadcast.
        input_shape: of one sample.
        loss: of the clients.
        trace: of the model.
        refusal: why our attacks refuse the model as a whole, or None.
    """
    call = trace.ran.linears[-1] if trace.ran.linears else None
    layer, names = (None if call is None else call.weight), plugins.names("labels")
    bias = call is not None and call.bias in {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    with torch.random.fork_rng(devices=[]):  # a model in train mode may draw
        observation, reason = _stand_in(model, input_shape, loss)
        if refusal is not None:
            reason = f"restorers refuse this model ({refusal}), not its gradient"
        elif observation is not None:
            reason = _obstacle(observation)
        if observation is None or reason:
            return LabelLeak(layer=layer, bias=bias, restorers=tuple(Restorer(name=name, applies=False, reason=reason) for name in names))
        head = _head(last_layer(observation), loss)
    asked = []
    for name in names:
        answer = plugins.load("labels", name)().unsupported(head)
        asked.append(Restorer(name=name, applies=answer is None, reason=answer or ""))
    apply = sum(restorer.applies for restorer in asked)
    remedy = for_labels(apply, bias) if apply else None
    return LabelLeak(layer=layer, classes=observation.classes, bias=bias, restorers=tuple(asked), remedy=remedy)


def _obstacle(observation: Observation) -> str:
    try:
        return obstacle(observation) or ""
    except USER_ERRORS as error:  # the model ran before, in its own precision
        return f"restorers run the model in float64, which this one does not take ({str(error.__cause__ or error).splitlines()[0]:.80})"


def _head(last: LastLayer, loss: Loss) -> Observation:
    """The last layer as a model of its own, fed with features of the same signs."""
    classes, features = last.weight.shape
    linear = nn.Linear(features, classes, bias=last.shift is not None, dtype=torch.float64)
    linear.load_state_dict({"weight": last.weight} | ({"bias": last.bias} if last.shift is not None else {}))
    signs, scores = nn.ReLU() if last.non_negative else nn.Identity(), nn.LogSoftmax(dim=1) if loss == "nll" else nn.Identity()
    model = nn.Sequential(signs, linear, scores)
    update = {name: torch.ones((), dtype=torch.float64).expand(parameter.shape) for name, parameter in model.named_parameters()}
    return Observation(model, update, (features,), loss)


def _stand_in(model: nn.Module, input_shape: tuple[int, ...], loss: Loss) -> tuple[Observation | None, str]:
    update = {
        name: torch.ones((), dtype=parameter.dtype, device=parameter.device).expand(parameter.shape)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    try:
        made = Observation(model, update, input_shape, loss)
    except BadUpdate:
        return None, "every parameter is frozen: the client sends no gradient"
    except Misuse as error:
        return None, f"labels need {error.expected}, and this one gives {error.came}"
    return (None, made.unreadable) if made.unreadable else (made, "")
