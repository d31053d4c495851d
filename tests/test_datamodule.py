from collections import Counter

import numpy as np
import pytest
import torch

from slr.data import video
from slr.data.augment import ColorJitter
from slr.data.collate import IGNORED
from slr.data.datamodule import ClipData, Decoded, EpochBatches
from slr.data.manifest import Clip
from slr.model.inputs import load_inputs
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
