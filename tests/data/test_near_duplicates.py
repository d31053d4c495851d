import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from slr.core.errors import UserError
from slr.data.duplicates import near_duplicates as module
from slr.data.duplicates.near_duplicates import (
    CUTS,
    MOTION_BITS,
    MOTION_WITHIN,
    STILL_BITS,
    STILL_WITHIN,
    Fingerprint,
    distance,
    find_near_duplicates,
    fingerprint,
    fingerprints,
    near_duplicates,
)
from slr.data.manifest import Clip, read_manifest
from slr.data.video import read
from slr.prepare.encode import write_clip
from slr.prepare.synthetic.prepare import prepare_synthetic


def clip(name: str, sha256: str | None = None, frames: int = 20) -> Clip:
    sha256 = sha256 or f"bytes {name}"
    return Clip(name, f"clips/{name}.mp4", "g", frames, 25.0, 64, 64, sha256, "", sha256, None, None, None)


def near(one: Fingerprint, other: Fingerprint) -> bool:
    still, motion = distance(one, other)
    return still <= STILL_WITHIN and motion <= MOTION_WITHIN


def waves(grey: np.ndarray) -> np.ndarray:
    """The three-dimensional cosine transform (II), from its definition."""
    for axis in range(3):
        n = grey.shape[axis]
        basis = np.cos(np.pi / n * (np.arange(n) + 0.5) * np.arange(n)[:, None])
        grey = np.moveaxis(np.tensordot(basis, grey, axes=(1, axis)), 0, axis)
    return grey


def encoded(path: Path, frames: np.ndarray) -> np.ndarray:
    """What decodes from `path` once these frames are written there, as grey levels: float64 (T, H, W)."""
    count = write_clip(path, list(frames), crf=1)
    pictures = [Image.fromarray(frame).convert("L") for frame in read(path, np.arange(count), "pyav")]
    return np.stack([np.asarray(picture, dtype=np.float64) for picture in pictures])


def test_bits_are_the_signs_of_the_cosine_transform(tmp_path):
    rng = np.random.default_rng(0)
    # Of the hash's own size, so that scaling changes nothing; 40 frames, so that each cut takes others.
    noise = np.repeat(rng.integers(256, size=(40, 32, 32, 1), dtype=np.uint8), 3, axis=3)
    grey = encoded(tmp_path / "noise.mp4", noise)
    found = fingerprint(tmp_path / "noise.mp4", 40, "pyav")
    middles = [(number + 0.5) / 16 for number in range(16)]
    cuts = [(0, 40), (2, 38), (0, 38), (2, 36)]  # first frame, length: 5 % of 40 are 2
    for row, (first, length) in enumerate(cuts):
        expected = waves(grey[[int(first + length * middle + 1e-9) for middle in middles]])
        wrong = found.motion[row].reshape(12, 16, 16) != (expected[1:13, :16, :16] > 0)
        assert np.abs(expected[1:13, :16, :16][wrong]).max(initial=0) < 1e-2 * np.abs(expected).std()
    picture = waves(grey[[int(40 * middle) for middle in middles]])[0, :8, :8].ravel()[1:]
    assert found.still.tolist() == (picture > 0).tolist()


def test_a_clip_that_stands_still_has_no_motion_and_is_told_by_its_picture(tmp_path):
    rng = np.random.default_rng(0)
    prints = []
    for name in ("one", "other"):
        encoded(tmp_path / name, rng.integers(256, size=(1, 48, 64, 3), dtype=np.uint8).repeat(16, axis=0))
        prints.append(fingerprint(tmp_path / name, 16, "pyav"))
    one, other = prints
    assert not one.motion.any()
    assert near(one, one)
    assert not near(one, other)


def test_a_clip_of_one_frame_has_a_fingerprint(tmp_path):
    encoded(tmp_path / "one.mp4", np.zeros((1, 64, 64, 3), dtype=np.uint8))
    assert not fingerprint(tmp_path / "one.mp4", 1, "pyav").motion.any()


def random_print(rng: np.random.Generator) -> Fingerprint:
    return Fingerprint(rng.random(STILL_BITS) < 0.5, rng.random((len(CUTS), MOTION_BITS)) < 0.5)


def random_prints(rng: np.random.Generator, count: int) -> list[Fingerprint]:
    """Families of hashes at all distances from their first; of some, only a cut is near."""
    found = []
    for _ in range(count // 6):
        first = random_print(rng)
        for strength in (0, 0.1, 0.15, 0.2, 0.25, 0.3):
            motion = rng.random((len(CUTS), MOTION_BITS)) < 0.5
            cut = rng.integers(len(CUTS))
            motion[cut] = first.motion[0] ^ (rng.random(MOTION_BITS) < strength)
            found.append(Fingerprint(first.still ^ (rng.random(STILL_BITS) < strength), motion))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_near_duplicates_are_those_of_every_pair(seed):
    made = random_prints(np.random.default_rng(seed), 120)
    clips = [clip(f"c{number}") for number in range(len(made))]
    prints = {c.sha256: found for c, found in zip(clips, made, strict=True)}
    expected = []
    for a, b in itertools.combinations(clips, 2):
        one, other = prints[a.sha256], prints[b.sha256]
        still = np.count_nonzero(one.still != other.still) / STILL_BITS
        rows = [(one.motion[0], row) for row in other.motion] + [(other.motion[0], row) for row in one.motion]
        motion = min(np.count_nonzero(x != y) / MOTION_BITS for x, y in rows)
        assert distance(one, other) == pytest.approx((still, motion))
        if still <= STILL_WITHIN and motion <= MOTION_WITHIN:
            expected.append((a.id, b.id))
    assert 10 < len(expected) < 300
    assert sorted(near_duplicates(clips, prints)) == sorted(expected)


def test_pairs_are_found_across_blocks_and_once_for_each_content():
    rng = np.random.default_rng(0)
    made = [random_print(rng) for _ in range(1_100)]
    made[1_050] = made[3]
    clips = [clip(f"c{number}") for number in range(len(made))]
    prints = {c.sha256: found for c, found in zip(clips, made, strict=True)}
    twins = [*clips, clip("twin", clips[3].sha256)]  # of the same bytes: no near-duplicate but an identical file
    assert near_duplicates(twins, prints) == [("c3", "c1050")]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """Four signers who make eight signs."""
    return prepare_synthetic(tmp_path_factory.mktemp("drawn") / "data", 8, 4, 1, 0, 128, 2).parent


def test_no_two_drawn_signs_of_one_signer_are_taken_for_copies(drawn):
    clips = read_manifest(drawn / "manifest.jsonl")
    prints = fingerprints(drawn, clips, workers=1)
    pairs = [pair for pair in itertools.combinations(clips, 2) if pair[0].signer == pair[1].signer]
    assert len(pairs) == 4 * 28
    assert not any(near(prints[a.sha256], prints[b.sha256]) for a, b in pairs)


def altered(frames: np.ndarray, way: str) -> Sequence[np.ndarray]:
    height, width = frames.shape[1:3]
    match way:
        case "smaller":
            size = (width // 4 * 2, height // 4 * 2)
            return [np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BILINEAR)) for frame in frames]
        case "brighter":
            return list(np.clip(frames * 1.2 + 10, 0, 255).astype(np.uint8))
        case "cropped":
            return [
                np.ascontiguousarray(f[height // 25 : -(height // 25), width // 25 : -(width // 25)]) for f in frames
            ]
        case "shorter":
            return list(frames[1:-1])
    raise ValueError(way)


@pytest.mark.parametrize(("way", "least"), [("smaller", 8), ("brighter", 8), ("cropped", 8), ("shorter", 5)])
def test_altered_copies_of_drawn_clips_are_found_and_never_mistaken(drawn, tmp_path, way, least):
    clips = read_manifest(drawn / "manifest.jsonl")[:8]
    prints = fingerprints(drawn, clips, workers=1)
    hits = 0
    for original in clips:
        frames = read(drawn / original.file, np.arange(original.frames))
        count = write_clip(tmp_path / "copy.mp4", altered(frames, way))
        copy = fingerprint(tmp_path / "copy.mp4", count)
        found = [other.id for other in clips if near(prints[other.sha256], copy)]
        assert set(found) <= {original.id}
        hits += len(found)
    assert hits >= least


@pytest.mark.slow
def test_real_clips_of_another_recording_are_far_and_altered_copies_near(real_clips, tmp_path):
    clips = read_manifest(real_clips / "manifest.jsonl")
    prints = fingerprints(real_clips, clips, workers=2)
    others = [distance(prints[a], prints[b])[1] for a, b in itertools.combinations(prints, 2)]
    assert len(others) > 11_000
    assert min(others) > 1.2 * MOTION_WITHIN
    found = 0
    for original in clips[::5]:
        frames = read(real_clips / original.file, np.arange(original.frames))
        count = write_clip(tmp_path / "copy.mp4", altered(frames, "smaller"))
        copy = fingerprint(tmp_path / "copy.mp4", count)
        found += near(prints[original.sha256], copy)
    assert found >= 0.9 * len(clips[::5])


def test_a_copy_in_the_data_set_is_found_and_computed_once(drawn, tmp_path, monkeypatch):
    clips = read_manifest(drawn / "manifest.jsonl")[:5]
    (tmp_path / "clips").mkdir()
    for original in clips:
        (tmp_path / original.file).write_bytes((drawn / original.file).read_bytes())
    count = write_clip(
        tmp_path / "clips" / "copy.mp4", altered(read(drawn / clips[2].file, np.arange(clips[2].frames)), "smaller")
    )
    clips.append(clip("copy", frames=count))
    assert find_near_duplicates(tmp_path, clips, workers=1) == [(clips[2].id, "copy")]

    read_files = []
    monkeypatch.setattr(module, "read", lambda path, *words: read_files.append(path) or read(path, *words))
    assert find_near_duplicates(tmp_path, clips, workers=1) == [(clips[2].id, "copy")]
    assert read_files == []
    rows = (tmp_path / "fingerprints.jsonl").read_text().splitlines()
    assert [json.loads(row)["sha256"] for row in rows] == [c.sha256 for c in clips]
    # Another method's rows, and half a row, are computed again.
    rows[1] = rows[1].replace(module.METHOD, "older")
    (tmp_path / "fingerprints.jsonl").write_text("\n".join(rows))
    fingerprints(tmp_path, clips, workers=1)
    assert read_files == [tmp_path / clips[1].file]
    (tmp_path / "fingerprints.jsonl").write_text("\n".join(rows)[:-40])
    assert find_near_duplicates(tmp_path, clips, workers=1) == [(clips[2].id, "copy")]
    (tmp_path / "fingerprints.jsonl").unlink()
    fingerprints(tmp_path, clips[:2], workers=1)
    assert len((tmp_path / "fingerprints.jsonl").read_text().splitlines()) == 2


def test_processes_give_what_one_gives(drawn, tmp_path, monkeypatch):
    clips = read_manifest(drawn / "manifest.jsonl")
    alone = fingerprints(drawn, clips, workers=1)
    kept = (drawn / "fingerprints.jsonl").read_bytes()
    (drawn / "fingerprints.jsonl").unlink()
    monkeypatch.setattr(module, "FEW", 0)
    together = fingerprints(drawn, clips, workers=2)
    assert (drawn / "fingerprints.jsonl").read_bytes() == kept
    assert all(distance(alone[sha256], together[sha256]) == (0, 0) for sha256 in alone)


def test_a_clip_that_is_not_there_is_one_line(drawn, tmp_path):
    with pytest.raises(UserError, match="expected the prepared clip"):
        fingerprints(tmp_path, read_manifest(drawn / "manifest.jsonl"), workers=1)
