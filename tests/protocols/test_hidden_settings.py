"""What the server is not told of a protocol or a defense stands nowhere that an attack or a reader of its report could find it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from unbatch import auditing, plugins, restoring, store
from unbatch.contracts import Plugin
from unbatch.report import counts as counts_page
from unbatch.report import html
from unbatch.store.counts import stored_labels
from unbatch.types import Batch, Observation

ODD = {float: 0.034567, int: 13}
"""Settings that no text has by chance."""

WHATEVER = [(kind, name) for kind in ("protocols", "defenses") for name in plugins.names(kind)]


def concealing() -> list[Plugin]:
    """Every plug-in that can keep a setting from the server, doing so, with settings that one recognizes."""
    found = []
    for kind, name in WHATEVER:
        cls = plugins.load(kind, name)
        switches = [field.name for field in dataclasses.fields(cls) if field.name.endswith("_known")]
        odd = {
            field.name: ODD[type(field.default)]
            for field in dataclasses.fields(cls)
            if type(field.default) in (float, int) and field.default
        }
        found += [cls(**odd | {switch: False}) for switch in switches]
    return found


def secret() -> tuple[torch.nn.Module, Batch]:
    model = plugins.build("models", "mlp:width=40,depth=3").build((8,), 4, 0).double()
    x = torch.randn((4, 8), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return model, Batch(x, torch.arange(4))


def texts(seen: Observation, folder: Path) -> dict[str, str]:
    """All that is written of an observation: its own facts, and both reports with the files beside them."""
    finding = auditing.audit(seen, attack="spear:seconds=1")
    store.save(finding, folder / "audit")
    html.write(folder / "audit")
    counts_page.write(stored_labels(restoring.restore_labels(seen, attack=None), seen, 0, {}), folder / "labels")
    facts: dict[str, Any] = {field.name: getattr(seen, field.name) for field in dataclasses.fields(seen)}
    told = {name: repr(fact) for name, fact in facts.items() if name not in ("model", "update")}
    files = {str(path): path.read_text() for path in sorted(folder.rglob("*")) if path.suffix in (".html", ".json")}
    assert len(files) >= 3
    return told | files | {"knowledge": json.dumps(seen.knowledge.sentences())}


def test_fedavg_can_conceal_its_rate() -> None:
    assert [(type(plugin).__name__, sorted(plugin.hidden)) for plugin in concealing()] == [("FedAvg", ["learning_rate"])]


@pytest.mark.parametrize("plugin", concealing(), ids=lambda plugin: plugin.spec)
def test_a_concealed_setting_is_written_nowhere(plugin: Plugin, tmp_path: Path) -> None:
    assert plugin.hidden, "a switch that hides nothing"
    protocol = plugin if hasattr(plugin, "observe") else plugins.build("protocols", "fedsgd")
    seen = protocol.observe(*secret(), defenses=() if protocol is plugin else [plugin])
    written = texts(seen, tmp_path)
    for name in plugin.hidden:
        value = str(getattr(plugin, name))
        assert value in plugin.spec
        assert value not in plugin.told
        assert name not in plugin.told
        for where, text in written.items():
            assert value[:6] not in text, f"{name} is told in {where}"


def test_what_is_known_is_told(tmp_path: Path) -> None:
    """The search above finds what is there."""
    seen = plugins.build("protocols", "fedavg:learning_rate=0.034567,epochs=3").observe(*secret())
    written = texts(seen, tmp_path)
    assert {where for where, text in written.items() if "0.0345" in text} >= {"protocol", "training", "knowledge"}
    assert sum("0.0345" in text for where, text in written.items() if where.endswith((".html", ".json"))) >= 3


@pytest.mark.parametrize(("kind", "name"), WHATEVER)
def test_what_is_hidden_is_a_setting(kind: str, name: str) -> None:
    plugin = plugins.load(kind, name)()
    assert plugin.hidden <= {field.name for field in dataclasses.fields(plugin)}
    if not plugin.hidden:
        assert plugin.told == plugin.spec


def test_a_default_is_concealed_too() -> None:
    """A rate that is left out because it is the default would be told by that."""
    one, other = (plugins.build("protocols", f"fedavg:rate_known=false{rate}") for rate in ("", ",learning_rate=0.1"))
    assert one.told == other.told == "fedavg:rate_known=False"
