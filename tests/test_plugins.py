"""From text to plug-ins and back: names, settings, and values with commas, quotes and equals signs in them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unbatch import plugins, specs
from unbatch.contracts import Plugin
from unbatch.errors import Misuse, UnknownPlugin


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
