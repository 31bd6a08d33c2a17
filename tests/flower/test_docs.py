"""The code of docs/flower.md, run as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="Flower is not installed: run `make test-flower`")

from federation import RATE, SAMPLES, LocalGrid, answer, batch_of, message, network, trained
from flwr.app import ArrayRecord, Message, RecordDict

from unbatch.training import LocalTraining

PAGE = Path(__file__).parents[2] / "docs" / "flower.md"


def test_the_page_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    server, client = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names = {"network": network}
    exec(server, names)  # noqa: S102
    exec(client, names)  # noqa: S102
    app, strategy = names["app"], names["strategy"]
    strategy.inner.fraction_evaluate = 0.0

    @app.train()
    def train(msg: Message, _: object) -> Message:
        sent = dict(msg.content["arrays"].to_torch_state_dict())
        return answer(msg, trained(sent, batch_of(msg.metadata.dst_node_id, 1, SAMPLES), LocalTraining(learning_rate=RATE)))

    # One client as the page defends it, one without.
    bare = type(app)()
    bare.train()(train)
    grid = LocalGrid(lambda msg, ctx: (app if msg.metadata.dst_node_id == 100 else bare)(msg, ctx), 2)
    message(0, RecordDict())  # gives this process an identity
    strategy.start(grid=grid, initial_arrays=ArrayRecord(network().state_dict()), num_rounds=1)
    assert strategy.disclosed == {"101": [1]}
    assert (tmp_path / "findings" / "round-1" / "client-101" / "report.html").is_file()


def test_the_tutorial_ends_as_it_says(tmp_path: Path) -> None:
    """A whole simulation: it starts processes of its own."""
    pytest.importorskip("ray", reason="ray is not installed: run `make test-flower`")
    page = (PAGE.parent / "tutorials" / "federation.md").read_text(encoding="utf-8")
    found = re.search(r'```python title="federation.py"\n(.*?)```', page, re.DOTALL)
    assert found is not None
    (tmp_path / "federation.py").write_text(found[1], encoding="utf-8")
    done = subprocess.run([sys.executable, "federation.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    summary = (tmp_path / "findings" / "summary.txt").read_text(encoding="utf-8")
    for line in ("client ward 0: RECONSTRUCTED, 8 of 8", "client ward 1: RECONSTRUCTED, 8 of 8", "client ward 2: NOT_APPLICABLE"):
        assert line in summary
        assert line in page
