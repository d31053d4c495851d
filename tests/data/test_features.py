"""Features from the cache against features computed anew: the same bits, and the same training."""

import dataclasses
import sys
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch

from slr.core import hardware
from slr.core.errors import UserError
from slr.data import video
from slr.data.augment import ColorJitter
from slr.data.batches import ClipData, Decoded
from slr.data.cache import features, store
from slr.data.cache.features import FeatureCache, decode, encode, fill, recipe
from slr.data.cache.store import Pack
from slr.data.manifest import Clip
from slr.models import internvl, lora
from slr.models.processor import load_inputs
from slr.prepare.encode import write_clip
from slr.training.module import SignModule

GLOSSES = ["one", "other", "third"]
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]
COLOURFUL = ColorJitter(0.2, 0.2, 0.2, 0.02)
FRAMES = 4


@pytest.fixture(scope="module")
def inputs():
    return load_inputs("tiny", None)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Nine clips of moving noise, the last a copy of the first under another name."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "clips").mkdir()
    rng = np.random.default_rng(0)
    found = []
    for number in range(8):
        file = f"clips/{number}.mp4"
        length = 12 + number
        write_clip(folder / file, rng.integers(0, 256, (length, 64, 64, 3), dtype=np.uint8))
        row = Clip(str(number), file, GLOSSES[number % 3], length, 25, 64, 64, f"sha{number}", "", "", None, None, None)
        found.append(row)
    return folder, [*found, dataclasses.replace(found[0], id="copy")]


def network(quantization="none"):
    base = internvl.load_vlm("tiny", None, "pretrained", quantization, torch.float32, "cpu", 0)
    torch.manual_seed(0)
    return lora.add_lora(base, "language", 4, 8, 0.1, TARGETS)


def recognizer(inputs, quantization="none"):
    return SignModule(network(quantization), inputs, GLOSSES, 1e-3, 0.01, 2, 1.0, "token", 0.1, 4, 0)


def data(clips, inputs, views=None, jitter=None, sampling="uniform", workers=0):
    folder, rows = clips
    return ClipData(
        parts={"train": rows, "val": rows[:3], "test": rows[3:5]},
        frames_from=Decoded(folder, inputs),
        vocabulary=GLOSSES,
        inputs=inputs,
        prompt="Which?",
        frames=FRAMES,
        sampling=sampling,
        jitter=jitter,
        answers=True,
        batch=4,
        ranking_batch=3,
        workers=workers,
        pin_memory=False,
        seed=3,
        views=views,
    )


def filled(module, folder, inputs, dtype="float32", model=None, workers=0):
    """A cache of what a training needs, and how many clips were computed for it."""
    cache = FeatureCache(Pack(folder), FRAMES * inputs.tokens_per_frame, 128, dtype)
    module.features_from = cache
    model = model or recognizer(inputs)
    computed = []

    def compute(frames):
        computed.append(len(frames))
        return model.encode(frames)

    datasets = [module.training_set(), module.ranking_set(module.parts["val"], cache)]
    fill(cache, datasets, compute, ON_CPU.autocast, batch=3, workers=workers)
    return cache, sum(computed)


ON_CPU = hardware.decide("cpu", "32-true", False, True, 0, 16, "none")


@pytest.mark.parametrize("shape", [(1, 3), (64, 128)])
def test_numbers_survive_as_promised(shape):
    truth = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 5
    assert torch.equal(decode(encode(truth, "float32"), *shape, "float32"), truth)
    assert torch.equal(decode(encode(truth, "bf16"), *shape, "bf16"), truth.bfloat16())
    kept = decode(encode(truth, "int8"), *shape, "int8").float()
    half_a_step = truth.abs().amax(-1, keepdim=True) / 127 / 2
    assert ((kept - truth).abs() <= half_a_step + truth.abs() / 2**8).all()  # and bf16's own rounding


@pytest.mark.parametrize("dtype", ["float32", "bf16", "int8"])
def test_records_are_as_long_as_announced(clips, inputs, tmp_path, dtype):
    cache, count = filled(data(clips, inputs), tmp_path, inputs, dtype)
    assert (tmp_path / "data.bin").stat().st_size == count * cache.bytes_each


def test_what_looks_alike_is_computed_once_and_nothing_twice(clips, inputs, tmp_path):
    module = data(clips, inputs)
    assert filled(module, tmp_path, inputs)[1] == 8  # nine training clips, two of them alike; val is seen alike too
    assert filled(data(clips, inputs), tmp_path, inputs)[1] == 0


def test_every_view_is_computed_and_every_epoch_finds_its_own(clips, inputs, tmp_path):
    module = data(clips, inputs, views=3, jitter=COLOURFUL, sampling="segment", workers=1)
    _, computed = filled(module, tmp_path, inputs, workers=1)
    # "copy" has the first clip's content and another name, hence positions and colours of its own.
    assert computed == 9 * 3 + 3
    seen = []
    for epoch in range(6):
        loader = module.train_dataloader()
        loader.batch_sampler.set_epoch(epoch)
        seen.append({name: one for batch in loader for name, one in zip(batch["clip"], batch["features"], strict=True)})
    for epoch in range(3):
        assert all(torch.equal(seen[epoch][name], seen[epoch + 3][name]) for name in seen[0])
        assert not any(torch.equal(seen[epoch][name], seen[(epoch + 1) % 3][name]) for name in seen[0])


def test_another_seed_finds_the_same_views(clips, inputs, tmp_path):
    filled(data(clips, inputs, views=2, jitter=COLOURFUL, sampling="segment"), tmp_path, inputs)
    other = data(clips, inputs, views=2, jitter=COLOURFUL, sampling="segment")
    other.seed = 99
    assert filled(other, tmp_path, inputs)[1] == 0


def losses_of(module, model, steps, folder):
    found = []

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer, *_):
            found.append(float(trainer.callback_metrics["train/loss"]))

    torch.manual_seed(0)
    L.Trainer(
        accelerator="cpu",
        max_steps=steps,
        max_epochs=-1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Watch()],
        default_root_dir=folder,
    ).fit(model, module.train_dataloader(), module.val_dataloader())
    return found


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec:FutureWarning")
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_fifty_steps_give_the_same_bits_with_and_without_the_cache(clips, inputs, tmp_path, quantization):
    plain = losses_of(data(clips, inputs), recognizer(inputs, quantization), 50, tmp_path)
    module, model = data(clips, inputs), recognizer(inputs, quantization)
    filled(module, tmp_path / "cache", inputs, model=model)
    model.train()
    model.network.base_model.model.model.vision_tower.forward = None  # nobody needs it any more
    cached = losses_of(module, model, 50, tmp_path)
    assert len(plain) == 50
    assert plain[-1] < plain[0]
    assert cached == plain


def test_the_folders_name_is_of_weights_and_settings(inputs):
    weights = list(internvl.bare(network()).model.multi_modal_projector.state_dict().values())
    name = recipe(weights, ["a", 1])
    assert recipe([w.clone() for w in weights], ["a", 1]) == name
    assert recipe(weights, ["a", 2]) != name
    weights[0].view(-1)[0] += 1e-3
    assert recipe(weights, ["a", 1]) != name


def test_every_file_that_computes_features_is_part_of_the_folders_name(clips, inputs):
    """Whoever moves that code elsewhere must name the file in `CODE`, or old features would be taken for new ones."""
    package, ran = Path(features.__file__).parents[2], set()
    model, (folder, [clip, *_]) = recognizer(inputs), clips

    def note(frame, event, _):
        if event == "call" and (file := Path(frame.f_code.co_filename)).is_relative_to(package):
            ran.add(file.relative_to(package).as_posix())

    sys.setprofile(note)
    try:
        frames = Decoded(folder, inputs)(clip, video.sample_positions(clip.frames, FRAMES, "uniform"))
        found = model.encode(COLOURFUL(frames, np.random.default_rng(0))[None])[0]
        decode(encode(found, "int8"), *found.shape, "int8")
    finally:
        sys.setprofile(None)
    thin = {"data/batches.py", "models/sign_model.py"}  # they call the others in turn
    assert ran - thin == set(features.CODE)


def test_features_that_were_deleted_are_told_of(clips, inputs, tmp_path):
    module = data(clips, inputs)
    filled(module, tmp_path, inputs)
    for file in tmp_path.glob("*.bin"):
        file.unlink()
    module.features_from.pack.reopen()
    with pytest.raises(UserError, match=r"no record of .*; delete that folder"):
        module.training_set()[0, 0]


def test_a_disk_without_room_is_refused_before_anything_is_computed(clips, inputs, tmp_path, monkeypatch):
    usage = store.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match=r"free in .* cache.dtype=int8"):
        filled(data(clips, inputs), tmp_path, inputs, model=object())
