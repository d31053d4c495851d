"""Every option of conf/ composes, fits the schema, and survives the way through config.json."""

import ast
import dataclasses
import itertools
import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from slr.config import compose as composing
from slr.config import jobs as commandline
from slr.config import overrides, schema
from slr.config.help import groups
from slr.core.env import CONF, PROJECT
from slr.core.errors import UserError

composing.register()
NEEDS = {"dataset=folder": ["dataset.clips='/a'", "dataset.labels='/b'"]}
OPTIONS = [f"{group}={option}" for group, options in groups().items() for option in options]


def compose(*words: str) -> schema.Config:
    return commandline.configurations(words)[0]


def test_every_file_of_conf_is_among_the_options():
    files = [path for path in CONF.rglob("*.yaml") if path.parent != CONF]
    assert len(files) == len(OPTIONS)
    assert len(OPTIONS) >= 15


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes_and_round_trips(option):
    config = compose(option, *NEEDS.get(option, []))
    plain = json.loads(json.dumps(schema.to_plain(config)))
    assert schema.from_plain(plain, Path("config.json")) == config


@pytest.mark.parametrize(
    "words", list(itertools.product(schema.DEVICES, ["tiny", "internvl3_5_2b"], ["language", "none"]))
)
def test_groups_combine(words):
    hardware, model, lora = words
    config = compose(f"hardware={hardware}", f"model={model}", f"lora={lora}", "dataset=synthetic")
    assert (config.hardware.device, config.model.name, config.lora.scope) == words


def test_hardware_files_bind_to_what_decides():
    source = (PROJECT / "slr" / "core" / "hardware.py").read_text()
    decide = next(n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef) and n.name == "decide")
    arguments = {argument.arg for argument in decide.args.args}
    fields = {field.name for field in dataclasses.fields(schema.Hardware)}
    assert fields - {"memory", "micro_batch"} | {"quantization"} == arguments  # these two are the memory plan's
    for kind in schema.DEVICES:
        assert set(OmegaConf.load(CONF / "hardware" / f"{kind}.yaml")) == fields


def test_auto_hardware_is_filled_from_the_kind_and_what_was_typed_wins():
    config = compose("hardware=auto", "hardware.workers=3")
    cpu = compose("hardware=cpu").hardware
    assert composing.fill_hardware(config.hardware, "cpu") == dataclasses.replace(cpu, workers=3)


def test_experiments_win_over_the_page_and_words_over_experiments():
    assert compose("experiment=demo").model.name == "tiny"
    assert compose("experiment=demo", "model=internvl3_5_2b").model.name == "internvl3_5_2b"
    assert compose("experiment=demo", "epochs=1").epochs == 1


def test_original_is_the_system_that_slr_rebuilds():
    original = compose("experiment=original")
    assert (original.frames, original.batch, original.epochs) == (8, 16, 10)
    assert (original.optimizer.lr, original.optimizer.weight_decay, original.optimizer.warmup_steps) == (2e-4, 0.01, 50)
    assert (original.lora.r, original.lora.alpha, original.lora.dropout) == (16, 32, 0.1)
    assert set(original.lora.targets) == {"q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"}
    assert (original.split.train, original.split.val, original.split.test) == (0.7, 0.15, 0.15)
    assert (original.early_stopping.monitor, original.early_stopping.patience) == ("val/loss", 3)
    assert original.checkpoint.monitor == "val/loss"
    assert original.objective.label_smoothing == 0.1
    assert original.gradient_checkpointing


def test_a_sweep_is_checked_job_by_job():
    jobs = commandline.configurations(["-m", "frames=4,8", "lora.r=8,16", "experiment=demo"])
    assert [(job.frames, job.lora.r) for job in jobs] == [(4, 8), (4, 16), (8, 8), (8, 16)]
    assert len(commandline.configurations(["-m", "frames=range(2,9,2)"])) == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["frame=8"], "frame=8: unknown key 'frame'; did you mean frames?"),
        (["+frame=8"], r"\+frame=8: unknown key 'frame'; did you mean frames?"),
        (["+lora.rank=3"], "unknown key 'lora.rank'; did you mean lora.r"),
        (["frames=0"], "frames=0: expected at least 1"),
        (["frames=abc"], "frames=abc: expected a whole number, found abc"),
        (["frames=8.5"], "frames=8.5: expected a whole number, found 8.5"),
        (["limit_train=0"], "limit_train=0: expected at least 1"),
        (["frames=null"], "frames=null: expected a whole number"),
        (["-m", "frames=0,8"], "frames=0: expected at least 1"),
        (["-m", "frames=8,abc"], "frames=abc: expected a whole number"),
        (["lora.r=-1"], "lora.r=-1: expected at least 1"),
        (["hardware=gpu"], "hardware=gpu: no such option; choose from auto, cpu, cuda"),
        (["-m", "hardware=cpu,gpu"], "hardware=gpu: no such option"),
        (["sampling=random"], "sampling=random: expected one of uniform, segment"),
        (["split.train=0.9"], r"split.train \+ split.val \+ split.test = 1.2: expected 1"),
        (["dataset=folder"], "dataset.clips is not given"),
        (["dataset=folder", "dataset.clips='/x'"], "dataset.labels is not given"),
        (
            ["dataset=folder", "dataset.clips='/x'", "dataset.layout=wlasl"],
            "dataset.layout=wlasl: expected one of labels",
        ),
        (["dataset=synthetic", "dataset.clips='/x'"], "Key 'clips' not in 'Synthetic'"),
        (["optimizer.lr=fast"], "optimizer.lr=fast: expected a number, found fast"),
        (["frames"], "frames: expected key=value"),
        (["model.prompt=' '"], "model.prompt= : expected a question"),
        (["sweep='../x'"], "sweep=../x: expected a folder name"),
    ],
)
def test_mistakes_are_one_line(words, message):
    with pytest.raises(UserError, match=message) as caught:
        commandline.configurations(words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["a b", "a,b", "a=b", "it's", "ä", '"q"', "${x}", "(1)", "back\\slash", "end\\", "\\'", "#", "%", "~"]
)
def test_any_path_reaches_the_configuration_as_typed(name):
    words = overrides.quote_paths([f"outputs=/tmp/{name}", f"data=/{name}/d"])
    for flags in ([], ["-m"]):
        config = compose(*flags, *words)
        assert config.outputs == f"/tmp/{name}"
        assert config.data == f"/{name}/d"


def test_relative_paths_become_absolute_and_hub_names_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    words = ["outputs=runs", "model.checkpoint=weights", "model.checkpoint=Org/Name", "frames=8"]
    assert overrides.quote_paths(words) == [
        f"outputs='{tmp_path}/runs'",
        f"model.checkpoint='{tmp_path}/weights'",
        "model.checkpoint='Org/Name'",
        "frames=8",
    ]


def test_a_configuration_of_another_version_is_refused():
    plain = schema.to_plain(compose("experiment=demo"))
    for change in ({"frame": 8}, {"frames": 0}):
        with pytest.raises(UserError):
            schema.from_plain(plain | change, Path("config.json"))
    with pytest.raises(UserError, match="is not the configuration"):
        schema.from_plain({}, Path("config.json"))


def test_a_run_from_before_a_key_is_read_as_what_it_did():
    config = compose("experiment=demo")
    plain = schema.to_plain(config)
    del plain["init"], plain["limit_train"], plain["model"]["commit"]
    assert schema.from_plain(plain, Path("config.json")) == config


def test_a_commit_is_not_typed():
    with pytest.raises(UserError, match=r"use model\.revision=COMMIT"):
        compose("experiment=demo", "model.commit=abc")
