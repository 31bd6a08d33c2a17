"""A client mod: defend what a client answers before it leaves the client."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping

from flwr.app import ArrayRecord, Context, Message, MessageType
from flwr.clientapp.typing import ClientAppCallable
from torch import Generator, Tensor

from unbatch import plugins
from unbatch.contracts import Defense, Stage
from unbatch.errors import BadUpdate, Misuse, some

__all__ = ["DefenseMod"]


class DefenseMod:
    """Applies defenses to the difference between the weights that a client was sent and those that it answers with.

    Give it to ``ClientApp(mods=[...])``, after any mod that masks or encrypts, so that it works on plain weights. The settings of the
    defenses are in the unit of the difference: of weights, not of gradients. It fails closed: where it cannot defend, it raises, and the
    server gets an error in place of the weights.

    Args:
        defenses: name and settings, or the defense itself, applied in this order; at the stage ``CLIENT``.
        gradients: whether the client answers with gradients, which are then defended as they are.
        seed: of the noise, for tests only: who knows it can take the noise off again. Fresh randomness from the system if None.

    Raises:
        Misuse: there is no defense, or one that a mod cannot apply.
        UnknownPlugin: there is no such defense or setting.

    Example:
        >>> from flwr.clientapp import ClientApp
        >>> app = ClientApp(mods=[DefenseMod("gaussian_noise:0.01")])
    """

    def __init__(self, *defenses: str | Defense, gradients: bool = False, seed: int | None = None) -> None:
        self.defenses: tuple[Defense, ...] = tuple(plugins.build("defenses", one) if isinstance(one, str) else one for one in defenses)
        self.gradients, self.seed = gradients, seed
        if not self.defenses:
            raise Misuse("at least one defense", "none", "name one; see `unbatch list defenses`")
        for defense in self.defenses:
            if defense.stage is not Stage.CLIENT:
                raise Misuse(
                    "defenses of a client's finished update",
                    f"{defense.spec}, which works on {defense.stage.value}",
                    "a mod sees only what leaves the client: use it where that is computed, in the training itself or on the server",
                )

    def __call__(self, msg: Message, context: Context, call_next: ClientAppCallable) -> Message:
        """Let the client train, then defend what it answers. Anything but training passes untouched.

        Raises:
            BadUpdate: the answer does not fit what was sent.
        """
        reply = call_next(msg, context)
        if msg.metadata.message_type.partition(".")[0] != MessageType.TRAIN or reply.has_error():
            return reply
        key, answered = _only_arrays(reply, "answer")
        after, generator = dict(answered.to_torch_state_dict()), Generator().manual_seed(self._seed(msg, context))
        if self.gradients:
            defended = self._defended(_floating(after), generator)
        else:
            before = dict(_only_arrays(msg, "message")[1].to_torch_state_dict())
            _check(before, after)
            moved = self._defended({name: before[name].double() - tensor.double() for name, tensor in _floating(after).items()}, generator)
            defended = {name: before[name].double() - tensor.double() for name, tensor in moved.items()}
        # Whole numbers, which count something, stay as they are.
        answer = {name: defended[name].to(tensor.dtype) if name in defended else tensor for name, tensor in after.items()}
        reply.content[key] = ArrayRecord.from_torch_state_dict(answer)
        return reply

    def _defended(self, update: Mapping[str, Tensor], generator: Generator) -> Mapping[str, Tensor]:
        for defense in self.defenses:
            update = defense(update, generator)
        return update

    def _seed(self, msg: Message, context: Context) -> int:
        """Another one for every client and round."""
        if self.seed is None:
            return secrets.randbits(63)
        rounds = [record["server-round"] for record in msg.content.config_records.values() if "server-round" in record]
        text = f"{self.seed}/{context.node_id}/{rounds or msg.metadata.group_id}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def _only_arrays(message: Message, which: str) -> tuple[str, ArrayRecord]:
    records = list(message.content.array_records.items())
    if len(records) != 1:
        raise BadUpdate(f"one record of arrays in the {which}", str(len(records)), "a defense cannot tell which one is the update")
    return records[0]


def _floating(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}


def _check(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> None:
    advice = "answer with the arrays that were sent, under their names"
    if strange := sorted(before.keys() ^ after.keys()):
        raise BadUpdate("the same arrays in message and answer", f"only one of them with {some(strange)}", advice)
    for name, tensor in after.items():
        if tensor.shape != before[name].shape:
            raise BadUpdate(f"{name!r} of shape {tuple(before[name].shape)}", f"{tuple(tensor.shape)}", advice)
