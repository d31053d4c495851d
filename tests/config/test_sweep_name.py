"""What a search varies, against Hydra's own values, and the names of sweeps and searches."""

import itertools
import math
import statistics

import optuna
import pytest
from entry import called
from hydra.core.override_parser.overrides_parser import OverridesParser
from searches import OPTUNA, axis

from slr.config import compose, jobs, overrides, schema, search_space, sweep_name
from slr.core.errors import UserError
from slr.sweeps.optuna_study import distribution

compose.register()


def corners(*words: str) -> list[schema.Config]:
    return jobs.configurations(["-m", OPTUNA, *words])


@pytest.mark.parametrize(
    "word",
    [
        "frames=4,8,16",
        "frames=choice(16,4)",
        "frames=shuffle(choice(16,4))",
        "frames=range(2,17,2)",
        "frames=range(2,16,2)",
        "frames=range(5)",
        "frames=range(3,0,-1)",
        "frames=shuffle(range(2,6))",
        "lora.dropout=range(0.0,0.5,0.1)",
        "lora.dropout=range(0.1,0.8,0.1)",
        "lora.dropout=range(0.7,0.1,-0.15)",
        "optimizer.lr=range(1e-5,6e-5,1e-5)",
        "frames=tag(log,range(2,9))",
        "model.prompt=choice('a, b',c)",
    ],
)
def test_discrete_axes_have_the_values_that_hydra_itself_would_sweep(word):
    found = axis(word)
    hydra = list(OverridesParser.create().parse_override(word).sweep_string_iterator())
    assert found.size == len(hydra)
    ours = [found.at(index) for index in range(len(hydra))]
    if isinstance(found, search_space.Choices):
        assert sorted(map(str, ours)) == sorted(hydra)
    else:
        assert sorted(ours) == pytest.approx(sorted(map(float, hydra)))
    sampler = optuna.samplers.RandomSampler(seed=1)
    study = optuna.create_study(sampler=sampler)
    name = found.key
    drawn = {found.exact(study.ask({name: distribution(found)}).params[name]) for _ in range(300)}
    assert drawn == set(ours)


@pytest.mark.parametrize(
    ("word", "kind", "low", "high"),
    [
        ("frames=interval(2,5)", int, 2, 5),
        ("optimizer.lr=interval(1,2)", float, 1, 2),
        ("dataset.signs=interval(2,4)", int, 2, 4),
        ("dataset.crop=interval(0,1)", float, 0, 1),  # null on the page
        ("hardware.workers=interval(0,4)", int, 0, 4),
        ("optimizer.lr=tag(log,interval(1e-5,1e-3))", float, 1e-5, 1e-3),
        ("lora.r=tag(log,interval(4,64))", int, 4, 64),
    ],
)
def test_intervals_are_of_the_type_of_their_key(word, kind, low, high):
    found = axis(word)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    drawn = [study.ask({"key": distribution(found)}).params["key"] for _ in range(1000)]
    assert {type(value) for value in drawn} == {kind}
    assert low <= min(drawn) <= max(drawn) <= high
    assert found.size == (high - low + 1 if kind is int else None)
    if kind is int and high - low < 9:
        assert set(drawn) == set(range(low, high + 1))
    if "log" in word:
        middle = math.sqrt(low * high)  # 1000 draws: half of them below, give or take 0.05 (three deviations)
        assert abs(statistics.mean(value < middle for value in drawn) - 0.5) < 0.05 + (0.05 if kind is int else 0)


def test_a_key_that_the_schema_does_not_know_is_of_the_type_of_its_value():
    assert distribution(axis("n=interval(1,3)", {"n": 2})) == optuna.distributions.IntDistribution(1, 3)
    assert distribution(axis("n=interval(1,3)", {"n": 2.0})) == optuna.distributions.FloatDistribution(1, 3)


def test_points_of_a_space_are_all_combinations():
    axes = [axis("frames=range(2,9,3)"), axis("lora.r=4,8"), axis("lora.dropout=range(0.1,0.35,0.1)")]
    size = search_space.size(axes)
    assert size == 3 * 2 * 3
    every = {search_space.point(axes, index) for index in range(size)}
    assert every == set(itertools.product((2, 5, 8), ("4", "8"), (0.1, 0.2, 0.3)))
    assert search_space.size([*axes, axis("optimizer.lr=interval(1e-5,1e-3)")]) is None


def test_every_choice_and_both_ends_are_checked_before_the_start():
    words = ("lora.r=4,8,16", "optimizer.lr=tag(log,interval(1e-5,1e-3))", "frames=range(2,17,2)", "epochs=3")
    found = corners(*words)
    assert {config.lora.r for config in found} == {4, 8, 16}
    assert {config.optimizer.lr for config in found} == {1e-5, 1e-3}
    assert {config.frames for config in found} == {2, 16}
    assert {config.epochs for config in found} == {3}
    assert len(found) == 5  # the first, and one for each other value


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimizer.lr=interval(1e-3,1e-5)"], "expected the lower end first, found 0.001 and 1e-05"),
        (["optimizer.lr=tag(log,interval(0,1))"], r"optimizer.lr: expected a lower end above 0 for tag\(log"),
        (["optimizer.lr=interval(1,inf)"], "expected two finite ends"),
        (["lora.dropout=interval(0,2)"], "lora.dropout=2.0: expected at least 0 and less than 1"),
        (["frames=interval(0,4)"], "frames=0: expected at least 1"),
        (["frames=interval(1.5,4)"], "frames=1.5: expected a whole number"),
        (["frames=4,abc"], "frames=abc: expected a whole number"),
        (["frames=range(2,9,0)"], "expected a step other than 0"),
        (["frames=range(2,2)"], "expected at least one value"),
        (["frames=tag(log,range(2,9,2))"], "expected no steps"),
        (["frames=tag(exp,interval(2,9))"], "expected no tag but log, on an interval or a range, found exp"),
        (["frames=tag(log,choice(2,9))"], "expected no tag but log"),
        (["frames=glob(*)"], "expected values to try one by one"),
        (["lora=interval(0,1)"], "expected values to try one by one"),
        (["lora=language,nothing"], "lora=nothing: no such option"),
        (["sampling=interval(0,1)"], "sampling=0.0: expected one of"),
        (["frame=interval(2,9)"], "unknown key 'frame'; did you mean frames"),
        (["epochs=2"], "expected a key to vary"),
        (["frames=4,8", "hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials=0: expected at least 1"),
        (["frames=4,8", "hydra.sweeper.at_once=0"], "hydra.sweeper.at_once=0: expected at least 1"),
        (["frames=4,8", "hydra.sweeper.direction=up"], "expected one of maximize, minimize"),
        (["frames=4,8", "hydra.sweeper.pruner=hyperband"], "expected one of median, none"),
        (["frames=4,8", "hydra.sweeper.trials=5"], "Key 'trials' not in"),
        (["frames=4,8", "hydra.sweeper.seed=1,2"], "Hydra's own settings are not searched over"),
    ],
)
def test_mistakes_are_one_line(words, message):
    with pytest.raises(UserError, match=message) as caught:
        corners(*words)
    assert "\n" not in str(caught.value)


def test_a_search_needs_a_sweep_and_optuna(monkeypatch):
    with pytest.raises(UserError, match="expected -m"):
        jobs.configurations([OPTUNA, "frames=4,8"])
    with pytest.raises(UserError, match="expected values to try one by one"):
        jobs.configurations(["-m", "frames=interval(2,8)"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="uv sync --extra optuna"):
        search_space.require_optuna()


def test_a_mistake_leaves_no_folder(tmp_path):
    code, _, err = called("train.py", "-m", OPTUNA, "optimizer.lr=interval(1,0)", f"outputs={tmp_path / 'outputs'}")
    assert code == 2
    assert [line for line in err.splitlines() if line] == [
        "error: optimizer.lr=interval(1,0): expected the lower end first, found 1 and 0"
    ]
    assert not (tmp_path / "outputs").exists()


def test_the_same_command_finds_its_folder():
    def name(*words: str) -> str:
        return next(word for word in sweep_name.named(["-m", *words]) if word.startswith("sweep="))

    same = name(OPTUNA, "frames=4,8", "lora.r=range(2,9)", "epochs=3")
    assert name(OPTUNA, "epochs=3", "frames=choice(4, 8)", "lora.r=range(2,9)", "hydra.sweeper.n_trials=50") == same
    others = [
        name(OPTUNA, "frames=4,16", "lora.r=range(2,9)", "epochs=3"),
        name(OPTUNA, "frames=4,8", "lora.r=range(2,8)", "epochs=3"),
        name(OPTUNA, "frames=4,8", "lora.r=range(2,9)", "epochs=4"),
        name("frames=4,8", "lora.r=range(2,9)", "epochs=3"),
    ]
    assert len({same, *others}) == 5


def test_what_is_printed_can_be_typed():
    words = ["outputs=/a b/it's, =1", "data=/tmp/${x}", "frames=8"]
    quoted = overrides.quote_paths(words)
    assert quoted != words
    assert overrides.typed(quoted) == words
