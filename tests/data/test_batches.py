from collections import Counter

import numpy as np
import pytest
import torch

from slr.data import video
from slr.data.augment import ColorJitter
from slr.data.batches import ClipData, Decoded, EpochBatches
from slr.data.cache.frames import FrameCache, fill
from slr.data.collate import IGNORED
from slr.data.manifest import Clip
from slr.models.processor import load_inputs
from slr.prepare.encode import write_clip

GLOSSES = ["a", "don't want", "thank you", "mokitu", "ÄÖ"]
STILL = ColorJitter(0, 0, 0, 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Seven clips of noise that drifts, so that no two frames are alike."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "clips").mkdir()
    rng = np.random.default_rng(0)
    for number in range(7):
        base = rng.integers(0, 200, (48, 64, 3), dtype=np.uint8)
        write_clip(folder / f"clips/{number}.mp4", (np.roll(base, 2 * t, 1) + t for t in range(20 + number)))
    return folder


def clips(prompts=None):
    return [
        Clip(
            id=str(number),
            file=f"clips/{number}.mp4",
            gloss=GLOSSES[number % len(GLOSSES)],
            frames=20 + number,
            fps=25.0,
            width=64,
            height=48,
            sha256=str(number),
            source=str(number),
            source_sha256=str(number),
            signer=None,
            official_part=None,
            prompt=(prompts or {}).get(number),
        )
        for number in range(7)
    ]


def make(folder, workers=0, jitter=STILL, batch=3, sampling="segment", seed=0, prompts=None, **others):
    rows = clips(prompts)
    inputs = load_inputs("tiny", None)
    return ClipData(
        parts={"train": rows, "val": rows[:4], "test": rows[4:]},
        frames_from=Decoded(folder, inputs),
        vocabulary=GLOSSES,
        inputs=inputs,
        prompt="Name the sign.",
        frames=4,
        sampling=sampling,
        jitter=jitter,
        answers=True,
        batch=batch,
        ranking_batch=3,
        workers=workers,
        pin_memory=False,
        seed=seed,
        **others,
    )


def epoch(data, number):
    loader = data.train_dataloader()
    loader.batch_sampler.set_epoch(number)
    return list(loader)


def test_labels_decode_to_gloss_and_end_token_and_nothing_else(folder):
    data = make(folder)
    end = data.inputs.decode([data.inputs.end_id])
    seen = 0
    for batch in epoch(data, 0):
        for gloss, labels, tokens in zip(batch["gloss"], batch["labels"], batch["input_ids"], strict=True):
            kept = labels[labels != IGNORED]
            assert data.inputs.decode(kept.tolist()) == GLOSSES[gloss] + end
            assert (tokens[labels != IGNORED] == kept).all()
            seen += 1
    assert seen == 7


def test_an_epoch_has_every_clip_once_in_a_new_order_each_time(folder):
    data = make(folder)
    orders = [[name for batch in epoch(data, number) for name in batch["clip"]] for number in range(4)]
    assert all(Counter(order) == Counter(map(str, range(7))) for order in orders)
    assert len(set(map(tuple, orders))) > 1
    assert orders[2] == [name for batch in epoch(make(folder), 2) for name in batch["clip"]]


def test_loading_leaves_the_global_generator_alone(folder):
    """Dropout draws from it: it must not depend on how many workers there are."""
    states = []
    for workers in (0, 1):
        torch.manual_seed(0)
        loader = make(folder, workers).train_dataloader()
        for number in range(2):
            loader.batch_sampler.set_epoch(number)
            list(loader)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(folder, workers):
    jitter = ColorJitter(0.3, 0.3, 0.3, 0.1)
    alone, shared = (epoch(make(folder, count, jitter), 3) for count in (0, workers))
    for one, other in zip(alone, shared, strict=True):
        assert one["clip"] == other["clip"]
        for key in ("frames", "input_ids", "labels", "attention_mask", "gloss"):
            assert torch.equal(one[key], other[key])


def test_a_clip_does_not_depend_on_its_batch_but_on_seed_and_epoch(folder):
    jitter = ColorJitter(0.3, 0.3, 0.3, 0.1)

    def frames(name, number, **changes):
        for batch in epoch(make(folder, jitter=jitter, **changes), number):
            if name in batch["clip"]:
                return batch["frames"][batch["clip"].index(name)]
        raise AssertionError(name)

    first = frames("2", 0)
    assert torch.equal(first, frames("2", 0, batch=7))
    assert not torch.equal(first, frames("2", 1))
    assert not torch.equal(first, frames("2", 0, seed=1))


def test_ranking_batches_hold_the_middle_frames_in_order(folder):
    data = make(folder)
    names = []
    for batch in data.val_dataloader():
        names += batch["clip"]
        assert (batch["labels"] == IGNORED).all()
        for name, frames in zip(batch["clip"], batch["frames"], strict=True):
            count = 20 + int(name)
            positions = [int((segment + 0.5) * count / 4) for segment in range(4)]
            expected = data.inputs.resize(video.read(folder / f"clips/{name}.mp4", np.array(positions), "pyav"))
            assert (frames.int() - expected.int()).abs().float().mean() <= 1
    assert names == ["0", "1", "2", "3"]


def test_a_prompt_in_the_manifest_wins(folder):
    data = make(folder, prompts={1: "What does she say?"})
    asked = {}
    for batch in epoch(data, 0):
        for name, tokens in zip(batch["clip"], batch["input_ids"], strict=True):
            asked[name] = data.inputs.decode(tokens.tolist())
    assert "What does she say?" in asked["1"]
    assert "Name the sign." not in asked["1"]
    assert "Name the sign." in asked["0"]


def test_the_last_batch_is_smaller_and_lightning_finds_the_epoch():
    batches = EpochBatches(10, 4, 0)
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert len(batches) == 3
    batches.sampler.set_epoch(5)
    assert {key[0] for batch in batches for key in batch} == {5}


def cached(folder, root, format="raw", **changes):
    """As `make`, from a frame cache that has been filled with all that training and validation read."""
    data = make(folder, **changes)
    cache = FrameCache(root, data.inputs, format)
    fill(cache, data.frames_from, data.frames_wanted(), 0)
    data.frames_from = cache
    return data


def frames_by_clip(batches):
    return {name: frames for batch in batches for name, frames in zip(batch["clip"], batch["frames"], strict=True)}


@pytest.mark.parametrize("sampling", ["uniform", "segment"])
def test_cached_frames_are_those_of_the_videos(folder, tmp_path, sampling):
    """Views are drawn as seed 0 draws its epochs, so that with as many views nothing at all differs."""
    jitter = ColorJitter(0.3, 0.3, 0.3, 0.1)
    anew = make(folder, jitter=jitter, sampling=sampling)
    kept = cached(folder, tmp_path, jitter=jitter, sampling=sampling, views=3)
    for number in range(3):
        for one, other in zip(epoch(anew, number), epoch(kept, number), strict=True):
            assert one["clip"] == other["clip"]
            assert torch.equal(one["frames"], other["frames"])
    assert all(
        torch.equal(one["frames"], other["frames"])
        for one, other in zip(anew.val_dataloader(), kept.val_dataloader(), strict=True)
    )


@pytest.mark.parametrize("format", ["jpeg", "raw"])
def test_workers_change_nothing_with_a_cache(folder, tmp_path, format):
    jitter = ColorJitter(0.3, 0.3, 0.3, 0.1)
    runs = [epoch(cached(folder, tmp_path, format, workers=count, jitter=jitter, views=2), 5) for count in (0, 1, 2)]
    for batches in zip(*runs, strict=True):
        assert all(one["clip"] == batches[0]["clip"] for one in batches)
        assert all(torch.equal(one["frames"], batches[0]["frames"]) for one in batches)


def test_views_repeat_and_are_every_seeds_while_order_and_colours_are_new(folder, tmp_path):
    def still(number, seed):
        return frames_by_clip(epoch(cached(folder, tmp_path, views=2, seed=seed), number))

    first, second = still(0, 1), still(1, 1)
    assert any(not torch.equal(first[name], second[name]) for name in first)
    for number, seed in ((2, 1), (4, 1), (0, 2), (6, 3)):
        assert all(torch.equal(frames, first[name]) for name, frames in still(number, seed).items())
    assert len(FrameCache(tmp_path, load_inputs("tiny", None), "raw").pack) <= 7 * 3 * 4  # two views, and uniform

    colourful = cached(folder, tmp_path, views=2, seed=1, jitter=ColorJitter(0.3, 0.3, 0.3, 0.1))
    epochs = [epoch(colourful, number) for number in (0, 2)]
    assert not any(
        torch.equal(frames, frames_by_clip(epochs[1])[name]) for name, frames in frames_by_clip(epochs[0]).items()
    )
    orders = [[name for batch in epoch(colourful, number) for name in batch["clip"]] for number in (0, 2, 4)]
    assert len(set(map(tuple, orders))) > 1


def test_colours_do_not_move_the_positions(folder):
    """They are drawn apart, so that one of them can repeat without the other."""
    plain, colourful = make(folder), make(folder, jitter=ColorJitter(0.3, 0.3, 0.3, 0.1))
    for clip in clips():
        one, other = (data.training_set().positions(clip, 3) for data in (plain, colourful))
        assert one.tolist() == other.tolist()


def test_what_fitting_wants_is_every_view_of_train_and_the_middles_of_val(folder):
    data = make(folder, views=3)
    wanted = Counter(clip.id for clip, _ in data.frames_wanted())
    assert wanted == {"0": 4, "1": 4, "2": 4, "3": 4, "4": 3, "5": 3, "6": 3}
    read = {
        (clip.id, tuple(data.training_set().positions(clip, number).tolist()))
        for number in range(9)
        for clip in data.parts["train"]
    }
    assert read <= {(clip.id, tuple(positions.tolist())) for clip, positions in data.frames_wanted()}
