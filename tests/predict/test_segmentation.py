"""Signs of a long recording: the geometry by brute force, the whole on recordings of signers whom no run has seen."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from recordings import record

import slr
from slr.data import video
from slr.data.collate import Sample, collate_ranking
from slr.predict import sources, stream
from slr.predict.segmentation import CELLS, HELD, MOVING, Segment, Windows, cells, cuts, lay, motion, propose, stretches
from slr.prepare.encode import write_clip

FPS = 25.0


# ---- windows


@pytest.mark.parametrize("frames", [1, 7, 39, 40, 41, 100, 1003])
@pytest.mark.parametrize(("count", "window", "stride"), [(8, 1.6, 0.4), (8, 1.7, 0.3), (4, 1.0, 1.0), (1, 2.0, 0.04)])
def test_windows_cover_a_recording_evenly(frames, count, window, stride):
    windows = lay(frames, FPS, count, window, stride)
    assert windows.positions.shape == (len(windows.starts), count)
    seen = np.zeros(frames, bool)
    for positions, start, end in zip(windows.positions, windows.starts, windows.ends, strict=True):
        assert 0 <= start <= positions.min() <= positions.max() < end <= frames
        seen[start:end] = True
        if frames >= windows.ends[0] and len(windows.starts) > 1:
            assert len(set(np.diff(positions).tolist())) <= 1
    assert seen.all()
    assert np.all(np.diff(windows.starts) > 0)
    lengths = set((windows.ends - windows.starts).tolist())
    assert len(lengths) == 1
    if frames > window * FPS + count:
        assert abs(lengths.pop() - window * FPS) <= count / 2


def test_neighbouring_windows_share_their_frames():
    windows = lay(1500, FPS, 8, 1.6, 0.4)
    assert len(np.unique(windows.positions[:-1])) <= 1500 / 5  # one frame in five, however often it is looked at
    assert windows.positions[:-1].size > 3 * len(np.unique(windows.positions[:-1]))


# ---- motion


def test_cells_are_means_of_green():
    pictures = np.random.default_rng(0).integers(256, size=(3, 50, 64, 3), dtype=np.uint8)
    found = cells(pictures)
    high, wide = 50 // CELLS, 64 // CELLS
    for row, column in ((0, 0), (3, 7), (CELLS - 1, CELLS - 1)):
        block = pictures[1, row * high : (row + 1) * high, column * wide : (column + 1) * wide, 1]
        assert found[1, row, column] == pytest.approx(block.mean(), abs=1e-4)


def test_motion_is_what_moves_and_not_the_light():
    seen = np.random.default_rng(0).uniform(50, 200, (1, CELLS, CELLS)).repeat(6, axis=0).astype(np.float32)
    seen[2:] += 30  # somebody switches a lamp on
    seen[4:, 5, 5] += 40
    moved = motion(seen)
    assert moved.shape == (6,)
    assert np.flatnonzero(moved > MOVING).tolist() == [4]
    assert moved[4] == pytest.approx(40, abs=0.01)


def by_brute_force(moved):
    """Stretches as one would mark them by hand: frames, and stillness shorter than a hold between two that move."""
    marked = [value > MOVING for value in moved]
    for start in range(len(marked)):
        for end in range(start + 2, min(len(marked), start + int(HELD * FPS) + 1)):
            if moved[start] > MOVING and moved[end] > MOVING:
                marked[start:end] = [True] * (end - start)
    found, start = [], None
    for number, mark in enumerate([*marked, False]):
        if mark and start is None:
            start = number
        if not mark and start is not None:
            found.append((max(0, start - 1), number))
            start = None
    return [one for one in found if one[1] - one[0] >= 10]


def test_stretches_by_brute_force():
    rng = np.random.default_rng(1)
    several = 0
    for _ in range(40):
        moved = np.where(np.repeat(rng.random(40) < 0.5, rng.integers(1, 14, 40)), 20.0, 1.0)
        assert stretches(moved, FPS) == by_brute_force(moved)
        several += len(stretches(moved, FPS)) > 1
    assert several > 10
    assert stretches(np.zeros(50), FPS) == []


# ---- proposals


def windows_every(frames, length=40, jump=5):
    starts = np.arange(0, frames - length + 1, jump)
    return Windows(np.zeros((len(starts), 1), np.int64), starts, starts + length)


def surely(windows, middles):
    """Probabilities of a model that is surer the nearer a window lies to a sign's middle; guesses elsewhere."""
    found = np.full((len(windows.starts), len(middles) + 1), 0.3)
    for number, middle in enumerate(middles):
        found[:, number] += 3 * np.exp(-((((windows.starts + windows.ends) / 2 - middle) / 10) ** 2))
    return found / found.sum(axis=1, keepdims=True)


def test_signs_between_rests_are_what_moves():
    windows = windows_every(250)
    moving = [(42, 78), (130, 170)]
    assert propose(windows, surely(windows, [60, 150]), moving) == moving
    assert propose(windows, surely(windows, [60, 150]), []) == []


def test_signs_without_a_rest_between_them_are_parted_where_the_model_is_surest():
    windows, truth = windows_every(250), [60, 105, 150]
    found = propose(windows, surely(windows, truth), [(40, 170)])
    assert len(found) == 3
    for (start, end), middle in zip(found, truth, strict=True):
        assert abs((start + end) / 2 - middle) <= 0.3 * FPS


def test_proposals_lie_in_what_moves_and_never_overlap():
    rng, moving = np.random.default_rng(2), [(10, 90), (100, 120), (150, 380)]
    windows = windows_every(400)
    for _ in range(20):
        found = propose(windows, rng.dirichlet(np.ones(3) / 2, len(windows.starts)), moving)
        assert len(found) >= 3
        for one, other in pairwise(found):
            assert one[0] < one[1] <= other[0]
        assert all(any(a <= start and end <= b for a, b in moving) for start, end in found)
        parts = cuts(found, 400, FPS)
        for part, span in zip(parts, found, strict=True):
            assert 0 <= part[0] <= span[0] < span[1] <= part[1] <= 400
            assert part[1] - part[0] <= span[1] - span[0] + 12
        assert all(one[1] <= other[0] for one, other in pairwise(parts))


# ---- the whole


def right(signed, found):
    """How many signs were found with their gloss, the middle at most 0.3 s off; each segment counts once."""
    left, hits = list(found), 0
    for sign in signed:
        match = [one for one in left if one.gloss == sign.gloss and abs((one.start + one.end) / 2 - sign.middle) <= 0.3]
        if match:
            left.remove(match[0])
            hits += 1
    return hits


@pytest.fixture(scope="module")
def recognizer(demo):
    with slr.load(demo) as opened:
        yield opened


def test_signs_of_signers_never_seen_are_found_in_a_minute(recognizer, tmp_path):
    path = tmp_path / "a minute, of = signs.mp4"
    signed = record(path, signs=16, signers=4, seconds=60.0, seed=0)
    assert len(signed) >= 20
    assert len({sign.gloss for sign in signed}) >= 8
    found = recognizer.scan(path)
    assert all(isinstance(one, Segment) for one in found)
    hits = right(signed, found)
    assert hits >= 0.8 * len(signed)
    assert len(found) - hits <= 0.15 * len(signed)  # named wrongly, or where no sign is


def test_a_person_at_rest_signs_nothing(recognizer, tmp_path):
    from recordings import Resting

    from slr.prepare.synthetic.prepare import vocabulary
    from slr.prepare.synthetic.signer import Signer

    sign = next(iter(vocabulary(2).values()))
    rest = Resting(sign, Signer(99), seed=1)
    pictures = [rest.draw(frame % rest.frames, 160) for frame in range(150)]
    write_clip(tmp_path / "rest.mp4", pictures)
    assert recognizer.scan(tmp_path / "rest.mp4") == []
    write_clip(tmp_path / "one.mp4", pictures[:1])
    assert recognizer.scan(tmp_path / "one.mp4") == []


def test_windows_are_ranked_as_clips_would_be_and_each_frame_is_read_and_encoded_once(
    recognizer, tmp_path, monkeypatch
):
    path = tmp_path / "short.mp4"
    record(path, signs=16, signers=1, seconds=8.0, seed=3)
    network, machine, prompt = recognizer._model, recognizer._machine, recognizer._config.model.prompt
    read, encoded, alive = [], [], []
    plain_read, plain_encode, plain_look = video.read, network.encode, network.look

    def look(batch):
        alive.append(batch["features"].shape)
        return plain_look(batch)

    monkeypatch.setattr(video, "read", lambda path, span: read.append(span) or plain_read(path, span))
    monkeypatch.setattr(network, "encode", lambda frames: encoded.append(len(frames)) or plain_encode(frames))
    monkeypatch.setattr(network, "look", look)
    monkeypatch.setattr(stream, "AT_ONCE", 16)
    for folder, [clip] in sources.clips([path]):
        windows = lay(clip.frames, clip.fps, 8, 1.6, 0.4)
        looked, moved = stream.watch(network.eval(), machine, folder / clip.file, windows, prompt)
        assert np.concatenate(read).tolist() == list(range(clip.frames)) == list(range(len(moved)))
        assert sum(encoded) == len(np.unique(windows.positions))
        monkeypatch.undo()
        words = network.inputs.prompt_ids(prompt, 8)
        for number in (0, 7, len(windows.starts) - 1):
            frames = network.inputs.resize(video.read(folder / clip.file, windows.positions[number]))
            batch = collate_ranking([Sample("", 0, words, [], frames=frames)], network.inputs.pad_id)
            with torch.no_grad():
                expected = network.rank(batch)[0]
            np.testing.assert_allclose(looked.log_probability[number], expected, atol=1e-5)
            [again] = stream.look_at(network, machine, folder / clip.file, windows.positions[[number]], prompt)[0]
            np.testing.assert_allclose(again, expected, atol=1e-5)
