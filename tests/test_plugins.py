"""From text to plug-ins and back: names, settings, and values with commas, quotes and equals signs in them."""

from __future__ import annotations

import dataclasses
import importlib
import math
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unbatch import plugins, specs
from unbatch.cli import execute
from unbatch.contracts import Plugin
from unbatch.errors import Misuse, UnknownPlugin
from unbatch.training import LocalTraining


@given(st.dictionaries(st.from_regex(r"[a-z_]+", fullmatch=True), st.text(), min_size=1))
def test_what_is_written_is_read_again(settings: dict[str, str]) -> None:
    assert specs.parse(specs.write("name", settings)) == ("name", list(settings.items()))


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("npz", []),
        ("npz:", []),
        ("npz:a", [(None, "a")]),
        ("npz:a,", [(None, "a")]),
        ("npz:path=a=b", [("path", "a=b")]),
        ("npz:/x=y/z.npz", [(None, "/x=y/z.npz")]),
        ("npz:C:\\x\\y,k=1", [(None, "C:\\x\\y"), ("k", "1")]),
        ('npz:"a=b,c"', [(None, "a=b,c")]),
        (r'npz:path="say \"a\\b\"", k=2', [("path", 'say "a\\b"'), ("k", "2")]),
        ("spear:layer=", [("layer", "")]),
    ],
)
def test_settings_are_read(text: str, settings: list[tuple[str | None, str]]) -> None:
    assert specs.parse(text) == (text.partition(":")[0], settings)


@pytest.mark.parametrize("text", ['npz:"a', 'npz:path="a,b', 'npz:"a"b', 'npz:"a\\"'])
def test_an_open_quote_is_misuse(text: str) -> None:
    with pytest.raises(Misuse, match="close the quotes"):
        specs.parse(text)


def test_a_path_with_a_comma_and_an_equals_sign_is_found_and_printed_again(tmp_path: Path) -> None:
    path = tmp_path / "a=1, b.npz"
    np.savez(path, images=np.zeros((3, 4, 4), np.uint8), labels=np.arange(3))
    pool = plugins.build("datasets", f'npz:"{path}"')
    assert len(pool) == 3
    assert plugins.build("datasets", pool.spec) == pool


def test_a_field_given_twice_or_unknown_is_named() -> None:
    with pytest.raises(Misuse, match="one value for mlp's width"):
        plugins.build("models", "mlp:20,width=30")
    with pytest.raises(UnknownPlugin, match="got 'wide'"):
        plugins.build("models", "mlp:wide=30")


@dataclass(frozen=True)
class Named(Plugin):
    text: str = ""


def test_a_specification_survives_odd_values() -> None:
    spec = Named('a,b="c"').spec
    assert specs.parse(spec)[1] == [("text", 'a,b="c"')]


FLOATS = [
    (kind, name, field.name)
    for kind in plugins.KINDS
    for name in plugins.names(kind)
    for field in dataclasses.fields(plugins.load(kind, name))
    if re.search(r"\bfloat\b", str(field.type))
]
INFINITE = {("defenses", "clipping", "norm"), ("defenses", "dp_sgd", "clip")}
"""Norms that clip nothing."""


@pytest.mark.parametrize(("kind", "name", "field"), FLOATS)
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e999", "-nan"])
def test_a_number_that_is_none_is_refused(kind: str, name: str, field: str, value: str) -> None:
    number = float(value)
    if number == math.inf and (kind, name, field) in INFINITE:
        others = {"noise_multiplier": 0.0} if name == "dp_sgd" else {}
        assert getattr(plugins.load(kind, name)(**{field: number}, **others), field) == math.inf
        return
    for make in (lambda: plugins.build(kind, f"{name}:{field}={value}"), lambda: plugins.load(kind, name)(**{field: number})):
        with pytest.raises(Misuse, match=f"{name}'s {field} to be a finite number|above zero") as caught:
            make()
        assert str(caught.value).count("expected") == 1


def test_there_are_numbers_to_refuse() -> None:
    assert {("attacks", "spear", "seconds"), ("protocols", "fedavg", "learning_rate"), *INFINITE} <= set(FLOATS)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_local_training_takes_no_rate_that_is_none(value: float) -> None:
    for settings in ({"learning_rate": value}, {"learning_rate": 0.1, "momentum": value}):
        with pytest.raises(Misuse, match=r"learning rate|momentum"):
            LocalTraining(**settings)


@dataclass(frozen=True)
class Checks(Plugin):
    """Has checks of its own, and calls nobody else's."""

    rate: float = 1.0
    limit: float = dataclasses.field(default=1.0, metadata={"infinite": True})

    def __post_init__(self) -> None:
        if self.rate > 5:
            raise Misuse("a rate up to 5", str(self.rate), "lower it")


@dataclass(frozen=True)
class ChecksMore(Checks):
    extra: float = 0.0


def test_own_checks_come_on_top() -> None:
    assert Checks(limit=math.inf).limit == math.inf
    for settings in ({"rate": math.nan}, {"rate": math.inf}, {"limit": math.nan}):
        with pytest.raises(Misuse, match="a finite number"):
            Checks(**settings)
    with pytest.raises(Misuse, match="up to 5"):
        Checks(rate=6.0)
    with pytest.raises(Misuse, match="extra to be a finite number"):
        ChecksMore(extra=math.nan)


STRANGER = """
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, Tensor
from unbatch.contracts import Defense, Stage


@dataclass(frozen=True)
class Doubling(Defense):
    \"\"\"Twice the update.\"\"\"

    stage: ClassVar[Stage] = Stage.CLIENT
    factor: float = 2.0
    note: str = ""

    def __call__(self, gradients: Mapping[str, Tensor], generator: Generator) -> dict[str, Tensor]:
        return {name: self.factor * tensor for name, tensor in gradients.items()}


@dataclass(frozen=True)
class Clipping(Doubling):
    \"\"\"Not what unbatch calls clipping.\"\"\"


@dataclass(frozen=True)
class Half(Defense):
    stage: ClassVar[Stage] = Stage.CLIENT


class Melting(Defense):
    stage: ClassVar[Stage] = Stage.CLIENT

    def __call__(self, gradients: Mapping[str, Tensor], generator: Generator) -> dict[str, Tensor]:
        return dict(gradients)
"""


@pytest.fixture
def strangers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[EntryPoint]]:
    """A package that adds defenses; what stands in the list is what it says that it adds."""
    package = tmp_path / "strange"
    package.mkdir()
    (package / "__init__.py").write_text("from strange._rooms.defenses import Doubling\n")
    (package / "_rooms").mkdir()
    (package / "_rooms" / "__init__.py").touch()
    (package / "_rooms" / "defenses.py").write_text(STRANGER)
    (package / "broken.py").write_text("import no_such_library_anywhere\n")
    (package / "failing.py").write_text("raise KeyError('configuration')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    points: list[EntryPoint] = []
    monkeypatch.setattr("unbatch.specs.entry_points", lambda group: [point for point in points if point.group == group])
    yield points
    for name in [name for name in sys.modules if name.partition(".")[0] == "strange"]:
        del sys.modules[name]


def point(name: str, value: str, kind: str = "defenses") -> EntryPoint:
    return EntryPoint(name, value, f"unbatch.{kind}")


def test_a_strangers_plug_in_is_listed_built_and_built_again(strangers: list[EntryPoint], capsys: pytest.CaptureFixture[str]) -> None:
    strangers.append(point("twice-as-much", "strange:Doubling"))
    assert "twice-as-much" in plugins.names("defenses")
    assert "strange" not in sys.modules, "listing imports nothing"
    built = plugins.build("defenses", 'twice-as-much:factor=3,note="a,b"')
    assert built.spec == 'twice-as-much:factor=3.0,note="a,b"'
    assert plugins.build("defenses", built.spec) == built
    assert type(built).__module__ == "strange._rooms.defenses"  # not where its entry point says
    assert built({"w": torch.ones(2)}, torch.Generator())["w"].tolist() == [3.0, 3.0]
    assert execute(["describe", "twice-as-much"]) == 0
    assert "Twice the update." in capsys.readouterr().out
    with pytest.raises(Misuse, match="twice-as-much's factor to be a finite number"):
        plugins.build("defenses", "twice-as-much:factor=nan")


def test_a_built_in_name_stays_what_it_is(strangers: list[EntryPoint]) -> None:
    strangers += [point("clipping", "strange._rooms.defenses:Clipping"), point("other_clipping", "strange._rooms.defenses:Clipping")]
    assert plugins.names("defenses").count("clipping") == 1
    assert plugins.load("defenses", "clipping").__module__ == "unbatch.defenses.clipping"
    theirs = plugins.load("defenses", "other_clipping")()
    assert theirs.spec == "other_clipping"
    assert plugins.build("defenses", theirs.spec) == theirs


def test_a_class_that_nobody_adds_has_no_name_that_builds_another(strangers: list[EntryPoint]) -> None:
    strangers.append(point("clipping", "strange._rooms.defenses:Clipping"))
    theirs = importlib.import_module("strange._rooms.defenses").Clipping()
    assert theirs.spec == "strange._rooms.defenses.Clipping"
    with pytest.raises(UnknownPlugin):
        plugins.build("defenses", theirs.spec)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("x", "strange.broken:Thing", "importable, got ModuleNotFoundError: No module named 'no_such_library_anywhere'"),
        ("x", "strange.failing:Thing", "importable, got KeyError: 'configuration'"),
        ("x", "strange.nowhere:Thing", "importable, got ModuleNotFoundError"),
        ("x", "strange:Missing", "importable, got AttributeError"),
        ("x", "strange", "a frozen dataclass derived from unbatch.contracts.Defense, got module"),
        ("x", "strange._rooms.defenses:STAGE", "importable, got AttributeError"),
        ("x", "unbatch.models.mlp:Mlp", "derived from unbatch.contracts.Defense, got Mlp"),
        ("x", "builtins:dict", "derived from unbatch.contracts.Defense, got dict"),
        ("x", "builtins:len", "derived from unbatch.contracts.Defense, got len"),
        ("x", "strange._rooms.defenses:Half", "got Half without __call__"),
        ("x", "strange._rooms.defenses:Melting", "got Melting, which is not @dataclass(frozen=True)"),
        ("x.y", "strange:Doubling", "named in letters, digits, - and _"),
        ("a b", "strange:Doubling", "named in letters, digits, - and _"),
    ],
)
def test_what_keeps_to_no_contract_is_refused_in_one_sentence(
    strangers: list[EntryPoint], capsys: pytest.CaptureFixture[str], name: str, value: str, told: str
) -> None:
    strangers.append(point(name, value))
    assert name in plugins.names("defenses")
    with pytest.raises(UnknownPlugin) as caught:
        plugins.build("defenses", name)
    assert told in str(caught.value)
    assert value.partition(":")[0].partition(".")[0] in str(caught.value), "whose it is"
    assert plugins.build("defenses", "clipping").norm == 1.0  # nobody else suffers
    assert execute(["demo", f"--defense={name}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_one_name_from_two_packages_is_refused(strangers: list[EntryPoint]) -> None:
    strangers += [point("x", "strange:Doubling"), point("x", "strange._rooms.defenses:Clipping")]
    with pytest.raises(UnknownPlugin, match="one package that adds 'x' to the defenses"):
        plugins.load("defenses", "x")
    strangers[1] = point("x", "strange:Doubling")  # the same thing twice is no dispute
    assert plugins.load("defenses", "x").__name__ == "Doubling"
