"""Plans: what multiplies to what, and one sentence with the line for whatever is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from unbatch.errors import BadFile, Misuse
from unbatch.experiments import load_plan
from unbatch.experiments.identity import code_version
from unbatch.experiments.plan import MOST

Small = Callable[..., Path]


def test_lists_multiply_and_methods_add_up(small: Small) -> None:
    plan = load_plan(small())
    trials = plan.trials()
    assert plan.size == len(trials) == 3 * 2 * (1 + 1)
    assert len({trial.id for trial in trials}) == len(trials)
    assert [trial.settings.seed for trial in trials[:4]] == [0] * 4, "a run shows something of everything early"
    assert sum(trial.picture for trial in trials) == 2


def test_reduced_and_overrides_in_their_order(small: Small) -> None:
    assert load_plan(small(), reduced=True).size == 4
    assert load_plan(small(), reduced=True, overrides=["seeds=2"]).size == 8
    assert load_plan(small(), overrides=["batch_sizes=[1]", "restorers=[]", "models=mlp"]).size == 3


def test_grids_multiply_apart_and_share_what_stands_above(small: Small) -> None:
    more = "[[grid]]\nbatch_sizes = [1]\n[[grid]]\nbatch_sizes = [1, 4]\nseeds = [7]\n[grid.reduced]\nbatch_sizes = [2]\n"
    path = small(more=more)
    plan = load_plan(path)
    assert plan.size == 6 + 4
    assert {trial.settings.batch_size for trial in load_plan(path, reduced=True).trials()} == {1, 2}


def test_a_trial_that_two_grids_have_is_one(small: Small) -> None:
    plan = load_plan(small(more="[[grid]]\nbatch_sizes = [1]\n[[grid]]\nbatch_sizes = [1, 2]\n"))
    assert (plan.size, len(plan.trials())) == (6 + 12, 12)


def test_an_id_depends_on_all_that_can_change_the_result(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def first(*overrides: str) -> str:
        return load_plan(small(), overrides=["seeds=1", "batch_sizes=[1]", *overrides]).trials()[0].id

    ids = [
        first(),
        first("dtypes=float32"),
        first("threads=2"),
        first("trained=5"),
        first("metrics=mse"),
        first("defenses=pruning:share=0.5"),
    ]
    with monkeypatch.context() as patch:
        patch.setattr("unbatch.experiments.plan.code_version", lambda: "another")
        ids.append(first())
    assert first() == ids[0]
    data = tmp_path / "data" / "small.npz"
    content = data.read_bytes()
    (tmp_path / "moved").mkdir()
    (tmp_path / "moved" / "small.npz").write_bytes(content)
    monkeypatch.setenv("SMALL_DATA", str(tmp_path / "moved"))
    assert first() == ids[0], "where the data lies changes nothing"
    import numpy as np

    arrays = dict(np.load(data))
    arrays["images"][0, 0, 0, 0] ^= 1
    np.savez(tmp_path / "moved" / "small.npz", **arrays)
    ids.append(first())
    assert len(set(ids)) == len(ids)


def test_the_code_version_holds_the_packages_version() -> None:
    import unbatch

    assert code_version().startswith(f"{unbatch.__version__}+")


WRONG = [
    ({"models =": "modles ="}, "", "expected a key of plans, got 'modles' in line 4 of PLAN: did you mean 'models'?"),
    ({"one_sample": "two_samples"}, "", "'two_samples' in line 5 of PLAN: see `unbatch list attacks`"),
    ({"mlp:width=30,depth=2": "mlp:wdith=30"}, "", "got 'wdith' in line 4 of PLAN: see `unbatch describe mlp`"),
    ({"mlp:width=30,depth=2": "mlp:width=x"}, "", "expected mlp's width to be int, got 'x' in line 4 of PLAN"),
    ({"mlp:width=30,depth=2": "mlp:width=0"}, "", "in line 4 of PLAN: raise them"),
    ({"[1, 2]": "[1, 0]"}, "", "expected other batch_sizes, got 0 in line 7 of PLAN: input should be greater than or equal to 1"),
    ({"[1, 2]": "[1,\n 2,\n 41]"}, "", "expected batch sizes up to 40, got 41 in line 9 of PLAN"),
    ({"seeds = 3": "seeds = 0"}, "", "expected other seeds, got 0 in line 9 of PLAN"),
    ({"seeds = 3": "seeds = 'many'"}, "", "expected other seeds, got 'many' in line 9 of PLAN"),
    ({'told = "batch_size"': 'told = "all"'}, "", "expected other told, got 'all' in line 8 of PLAN"),
    ({"small.npz": "other.npz"}, "", "in line 3 of PLAN: check the path"),
    ({"$SMALL_DATA": "$NOWHERE_AT_ALL"}, "", "expected the environment variable NOWHERE_AT_ALL to be set, got none in line 3 of PLAN"),
    ({'["one_sample"]': "[]", '["ilrg"]': "[]"}, "", "expected attacks or restorers, got neither"),
    ({"pictures = 2": "pictures = -1"}, "", "expected a whole number for pictures, got -1 in line 10 of PLAN"),
    (
        {"[reduced]\nseeds = 1": "[reduced]\nsedes = 1"},
        "",
        "expected a key of plans, got 'sedes' in line 13 of PLAN: did you mean",
    ),
    ({}, '[[grid]]\nseeds = 1\n[[grid]]\ndefenses = ["clipping:norm=1", "blur"]\n', "got 'blur' in line 17 of PLAN"),
    ({}, "[grid]\nseeds = 1\n", "expected tables [[grid]]"),
    ({"seeds = 3": "format = 2"}, "", "expected format 1, got format 2 in line 9 of PLAN: update unbatch"),
    ({"seeds = 3": "seeds = = 3"}, "", "which is none: "),
    ({"batch_sizes = [1, 2]": ""}, "", "expected a list of batch_sizes, got none in PLAN: add batch_sizes = [...]"),
    ({"seeds = 3": 'mixes = "dirichlet"'}, "", "expected other mixes, got 'dirichlet' in line 9 of PLAN"),
    ({"seeds = 3": 'device = "toaster"'}, "", "expected a device, got 'toaster' in line 9 of PLAN"),
]


@pytest.mark.parametrize(("replaced", "more", "said"), WRONG, ids=[said[:60] for _, _, said in WRONG])
def test_what_is_wrong_is_named_with_its_line(small: Small, replaced: dict[str, str], more: str, said: str) -> None:
    path = small(replaced, more=more)
    with pytest.raises(Misuse) as caught:
        load_plan(path)
    assert said.replace("PLAN", repr(str(path))) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_list_that_multiplies_to_millions_is_refused(small: Small) -> None:
    path = small({"seeds = 3": "seeds = 1_000_000"})
    with pytest.raises(Misuse, match=rf"at most {MOST:,} trials, got 4,000,000 \(2 batch_sizes x 1000000 seeds\)"):
        load_plan(path)
    assert load_plan(small({"seeds = 3": "seeds = 60_000"}), most=500_000).size == 240_000


def test_overrides_are_named_as_such(small: Small) -> None:
    with pytest.raises(Misuse, match="got 'sedes' in --set sedes: did you mean 'seeds'"):
        load_plan(small(), overrides=["sedes=2"])
    with pytest.raises(Misuse, match="expected --set KEY=VALUE, got 'seeds'"):
        load_plan(small(), overrides=["seeds"])
    with pytest.raises(BadFile, match="No such file"):
        load_plan(small().parent / "nowhere.toml")
