"""`init=`: a run that begins with the adapter of an earlier one."""

import dataclasses
import hashlib
import shutil

import pytest
import torch
from entry import only_run, output_of, refused, scalars
from safetensors.torch import load_file, save_file

from slr import factory
from slr.config import compose as composing
from slr.config import jobs, overrides
from slr.config.saved_run import open_run
from slr.config.schema import to_plain
from slr.core.errors import UserError
from slr.core.files import read_json, write_json
from slr.core.run_folder import RunFolder
from slr.data.manifest import Clip, write_manifest
from slr.data.split import make_split, read_split, write_split
from slr.models import lora
from slr.training import assemble, start, warm_start
from slr.training.module import step_seed


@pytest.fixture(scope="module")
def earlier(demo):
    """The demo: a run of sixteen signs."""
    return demo


@pytest.fixture(scope="module")
def later(tmp_path_factory, earlier):
    """A run of six signs, by other people, that begins with it."""
    place = tmp_path_factory.mktemp("later")
    words = ["experiment=demo", "dataset.signs=6", "dataset.signers=8", "dataset.seed=1", "epochs=1", f"init={earlier}"]
    printed = output_of("train.py", *words, f"outputs={place / 'outputs'}", f"data={place / 'data'}")
    return only_run(place / "outputs"), printed


def test_the_run_says_what_it_began_with(earlier, later):
    run, printed = later
    best = earlier / "checkpoints" / "best.ckpt"
    digest = hashlib.sha256(best.read_bytes()).hexdigest()
    told = {"run": str(earlier), "file": "checkpoints/best.ckpt", "sha256": digest, "seen": {"val": 0, "test": 0}}
    assert read_json(run / "result.json")["init"] == told
    assert read_json(run / "config.json")["init"] == str(earlier)
    assert f"begins with the adapter of {earlier}" in printed
    assert len(read_json(run / "vocabulary.json")) == 6
    assert len(read_json(earlier / "vocabulary.json")) == 16


def built(run):
    """A later run's network and batches as they are before it trains, in micro-batches of its own."""
    folder, config, vocabulary = open_run(run)
    machine, inputs = factory.machine(config), factory.inputs(config)
    recognizer = assemble.recognizer(config, vocabulary, machine, inputs)
    recognizer.micro_batch = config.hardware.micro_batch
    clips = factory.clips(config)
    split = read_split(folder.split, clips)
    parts = {part: split.select(clips, part) for part in ("train", "val", "test")}
    machine = dataclasses.replace(machine, workers=0)
    data = factory.data(config, factory.prepared(config), parts, vocabulary, machine, inputs)
    return recognizer, next(iter(data.train_dataloader())), config


def first_loss(recognizer, batch, config):
    """What the first step of a training would tell."""
    recognizer.manual_backward = lambda loss: loss.backward()
    torch.manual_seed(step_seed(config.seed, 0, 0))
    return float(recognizer.backward_batch(batch))


def test_its_first_loss_is_that_of_the_earlier_adapter_on_the_same_batch(earlier, later):
    """The exported adapter's tensors are put into place by hand."""
    run, _ = later
    recognizer, batch, config = built(run)
    fresh = first_loss(recognizer, batch, config)
    weights = load_file(earlier / "adapter" / "adapter_model.safetensors")
    own = {name: parameter for name, parameter in recognizer.network.named_parameters() if parameter.requires_grad}
    assert {name.replace(".default.weight", ".weight") for name in own} == set(weights)
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(weights[name.replace(".default.weight", ".weight")])
    [(_, told), *_] = scalars(run)["train/loss"]
    assert first_loss(recognizer, batch, config) == pytest.approx(told, abs=1e-5)
    assert abs(told - fresh) > 0.01  # a fresh adapter would have told another


def test_checkpoint_and_export_give_the_same_adapter_which_goes_on_to_learn(earlier, later):
    run, _ = later
    states = []
    for file in ("checkpoints/best.ckpt", "adapter/adapter_model.safetensors"):
        recognizer, *_ = built(run)
        recognizer.begin_with(earlier / file)
        states.append(lora.adapter_state(recognizer.network))
    assert states[0].keys() == states[1].keys()
    assert len(states[0]) > 0
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    weights = load_file(earlier / "adapter" / "adapter_model.safetensors")
    assert all(torch.equal(states[0][name.replace(".weight", ".default.weight")], weights[name]) for name in weights)


def test_files_that_do_not_fit_are_refused(later, tmp_path):
    run, _ = later
    recognizer, *_ = built(run)
    before = lora.adapter_state(recognizer.network)
    save_file({"a": torch.zeros(2)}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(UserError, match="expected adapter tensors that fit"):
        recognizer.begin_with(tmp_path / "adapter_model.safetensors")
    for name in ("broken.safetensors", "broken.ckpt"):
        (tmp_path / name).write_text("no tensors")
        with pytest.raises(UserError, match="expected"):
            recognizer.begin_with(tmp_path / name)
    after = lora.adapter_state(recognizer.network)
    assert all(torch.equal(before[name], after[name]) for name in before)


def compose(*words):
    return jobs.configurations(overrides.quote_paths(["experiment=demo", *words]))[0]


@pytest.fixture
def old(tmp_path):
    """The folder of a run that has left its exported adapter alone, under a name that shells pass."""
    composing.register()
    folder = RunFolder(tmp_path / "an, earlier = rün")
    write_json(folder.config, to_plain(compose()))
    folder.adapter.mkdir(parents=True)
    (folder.adapter / warm_start.EXPORTED).write_bytes(b"weights")
    return folder


def clip(name, content, segment=None):
    """A clip whose gloss is its name's first letter."""
    facts = (9, 25.0, 8, 8, f"made of {content}", "", content, None, None, None, segment)
    return Clip(name, f"clips/{name}.mp4", name[0], *facts)


EARLIER = [clip("a1", "one"), clip("a2", "two"), clip("a3", "3")]
EARLIER += [clip("b1", "4", "x#1-9"), clip("b2", "5"), clip("b3", "6")]


def divided(clips, **parts):
    """A split that puts the named clips into parts, and the others into train."""
    clips = [dataclasses.replace(one, official_part=parts.get(one.id, "train")) for one in clips]
    return clips, make_split(clips, "official", 0, {})


@pytest.fixture
def trained(old, tmp_path):
    """As `old`, with its split, and its data set under a root of its own: a1, a2, b1 and b2 have trained."""
    config = compose(f"data={tmp_path / 'data of old'}")
    write_json(old.config, to_plain(config))
    clips, split = divided(EARLIER, a3="val", b3="test")
    write_split(old.split, split)
    place = tmp_path / "data of old" / config.dataset.place
    place.mkdir(parents=True)
    write_manifest(place / "manifest.jsonl", clips)
    return old, clips, place / "manifest.jsonl"


def test_the_export_serves_where_the_checkpoint_is_gone(old):
    config = compose(f"init={old.root}")
    assert config.init == str(old.root)
    assert warm_start.adapter_file(config) == old.adapter / warm_start.EXPORTED


def test_clips_that_have_trained_are_counted_by_their_content_wherever_they_lie(trained):
    """Another data set, whose clips have other names, is of some of the same recordings."""
    old, _, _ = trained
    there = compose(f"init={old.root}", "dataset.seed=1")
    again = [clip("a1", "new"), clip("a9", "one"), clip("b7", "5"), clip("b8", "6"), clip("b9", "other bytes", "x#1-9")]
    made = dataclasses.replace(clip("a8", "from another source"), sha256="made of two")  # of the same pictures
    clips, split = divided([*again, made], a9="val", b8="val", b9="test", a8="test", a1="test")
    found = warm_start.take(there, clips, split)
    assert found.seen == {"val": 1, "test": 2}, "b8 has not trained but tested, a1 is another clip of that name"
    assert "it was trained on 1 clips of val and 2 clips of test, which say nothing" in found.describe()
    clips, split = divided([clip("a1", "7"), clip("b2", "8"), clip("b3", "9")], a1="val", b2="test")
    assert warm_start.take(there, clips, split).seen == {"val": 0, "test": 0}
    assert "say nothing" not in warm_start.take(there, clips, split).describe()


@pytest.mark.parametrize("change", ["gone", "prepared anew"])
def test_where_the_earlier_clips_are_gone_no_count_is_claimed(trained, change):
    old, there, manifest = trained
    if change == "gone":
        manifest.unlink()
    else:
        write_manifest(manifest, [dataclasses.replace(one, sha256=f"{one.sha256}, anew") for one in there])
    config = compose(f"init={old.root}")
    other, split = divided(EARLIER[:-1], a1="val", b1="test")
    found = warm_start.take(config, other, split)
    assert found.seen is None
    assert "is not known" in found.describe()
    assert len(found.describe().splitlines()) == 1
    # The very clips that the run has divided will do, wherever they lie now.
    _, split = divided(EARLIER, a1="val", b1="test", b2="test")
    assert warm_start.take(config, there, split).seen == {"val": 1, "test": 2}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["model=internvl3_5_2b"], "model.checkpoint: tiny there"),
        (["model.revision=abc"], "model.revision: None there, abc here"),
        (["lora.r=8"], "lora.r: 16 there, 8 here"),
        (["lora.alpha=8"], "lora.alpha: 32 there, 8 here"),
        (["lora.targets=[q_proj]"], "lora.targets:"),
        (["lora=none"], "lora.scope: language there, none here"),
    ],
)
def test_another_model_or_adapter_is_refused(old, words, says):
    with pytest.raises(UserError) as refusal:
        warm_start.adapter_file(compose(f"init={old.root}", *words))
    assert says in str(refusal.value)
    assert str(refusal.value).startswith(f"init={old.root}: expected a run of the same model and adapter")
    assert "\n" not in str(refusal.value)


def test_a_commit_says_more_than_a_branch(old, tmp_path):
    """The earlier run began when `main` was another commit; the new one begins with that, or is refused."""
    first, second = "a" * 40, "b" * 40
    earlier = compose("model.checkpoint=some/model", "model.revision=main")
    earlier.model.commit = first
    write_json(old.config, to_plain(earlier))
    later = compose(f"init={old.root}", "model.checkpoint=some/model", "model.revision=main")
    assert warm_start.adapter_file(later) == old.adapter / warm_start.EXPORTED
    assert start.pinned(later, RunFolder(tmp_path / "new"), "nf4").model.commit == first
    later.model.revision = first
    assert warm_start.adapter_file(later) == old.adapter / warm_start.EXPORTED
    for later.model.revision, later.model.commit in ((second, None), ("main", second)):
        with pytest.raises(UserError, match=f"model.revision: {first} there, {second} here"):
            warm_start.adapter_file(later)


def test_what_is_no_such_run_is_refused(old, tmp_path):
    shutil.rmtree(old.adapter)
    with pytest.raises(UserError, match=r"expected checkpoints/best.ckpt or adapter"):
        warm_start.adapter_file(compose(f"init={old.root}"))
    write_json(old.config, to_plain(compose("lora=none")))
    with pytest.raises(UserError, match="expected a run with an adapter, found one of lora=none"):
        warm_start.adapter_file(compose(f"init={old.root}"))
    with pytest.raises(UserError, match=r"init=.*nowhere: expected the folder of a run"):
        warm_start.adapter_file(compose(f"init={tmp_path / 'nowhere'}"))


def test_a_refusal_comes_before_anything_starts(old, tmp_path):
    places = [f"outputs={tmp_path / 'out'}", f"data={tmp_path / 'data'}"]
    assert refused("train.py", "experiment=demo", f"init={old.root}", "lora.r=2", *places).startswith("init=")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "data").exists()


def test_a_run_that_has_not_trained_yet_wants_the_very_adapter_that_it_wrote_down(old, tmp_path):
    config, run = compose(f"init={old.root}"), RunFolder(tmp_path / "later")
    begun = warm_start.take(config, *divided(EARLIER, a1="val", b1="test"))
    write_json(run.root / warm_start.RECORD, dataclasses.asdict(begun))
    assert warm_start.written_down(run).seen is None  # there is no split
    assert warm_start.the_same(config, run) == old.adapter / warm_start.EXPORTED
    (old.adapter / warm_start.EXPORTED).write_bytes(b"other weights")
    with pytest.raises(UserError, match="expected the adapter that this run began with"):
        warm_start.the_same(config, run)
    (run.root / "init.json").unlink()
    with pytest.raises(UserError, match="train a new run"):
        warm_start.the_same(config, run)


def test_a_resumed_run_does_not_begin_anew(later, tmp_path):
    """It goes on from its own state, though the earlier run has been deleted since."""
    run, _ = later
    copy = tmp_path / "goes on, later"
    shutil.copytree(run, copy)
    config = read_json(copy / "config.json")
    write_json(copy / "config.json", config | {"init": str(tmp_path / "deleted since")})
    printed = output_of("train.py", f"resume={copy}", "epochs=2")
    steps = read_json(run / "result.json")["progress"]["step"]
    assert f"continuing after step {steps}" in printed
    result = read_json(copy / "result.json")
    assert result["progress"]["step"] == 2 * steps
    assert result["init"] == read_json(run / "result.json")["init"]
