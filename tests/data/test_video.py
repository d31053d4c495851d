import importlib.util
import sys

import numpy as np
import pytest

from slr.core.errors import UserError
from slr.data.manifest import read_manifest
from slr.data.video import load_decord, read, sample_positions
from slr.prepare.encode import write_clip


def test_uniform_takes_the_middle_of_equal_segments():
    for frames in range(1, 60):
        for count in range(1, 40):
            middles = [(segment + 0.5) * frames / count for segment in range(count)]
            positions = sample_positions(frames, count, "uniform")
            assert positions.dtype == np.int64
            # A middle on a border between two frames is either's; 1e-9 is the reference's own rounding.
            assert np.all(positions <= np.array(middles) + 1e-9)
            assert np.all(positions > np.array(middles) - 1 - 1e-9)


def test_uniform_over_as_many_frames_takes_each_once():
    assert sample_positions(37, 37, "uniform").tolist() == list(range(37))


@pytest.mark.parametrize(("frames", "count"), [(1, 1), (1, 8), (3, 8), (8, 8), (9, 8), (64, 8), (170, 16)])
def test_segment_takes_one_moment_of_each_segment(frames, count):
    rng = np.random.default_rng(0)
    draws = np.stack([sample_positions(frames, count, "segment", rng) for _ in range(2000)])
    assert draws.dtype == np.int64
    assert draws.min() >= 0
    assert draws.max() <= frames - 1
    assert np.all(np.diff(draws, axis=1) >= 0)
    edges = np.arange(count + 1) * frames / count
    for segment in range(count):
        possible = set(range(int(np.floor(edges[segment])), int(np.ceil(edges[segment + 1] - 1e-9))))
        assert set(draws[:, segment].tolist()) == possible  # each frame of it, and no other
    moments = (np.arange(count) + 0.5) * frames / count - 0.5
    assert np.abs(draws.mean(0) - np.clip(moments, 0, frames - 1)).max() < 0.5 + 0.05 * frames / count


def test_segment_follows_its_seed():
    draws = [sample_positions(90, 8, "segment", np.random.default_rng(seed)).tolist() for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize("sampling", ["random", "segment"])
def test_unknown_sampling_and_segments_without_randomness_are_refused(sampling):
    with pytest.raises(ValueError, match="expected"):
        sample_positions(4, 4, sampling)


def decoded(path):
    """Every frame of a file, by PyAV, in order."""
    import av

    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A clip whose every frame differs from its neighbours, by a moving noise pattern."""
    path = tmp_path_factory.mktemp("video") / "it's a, clip = ü.mp4"
    pattern = (
        np.random.default_rng(0).integers(0, 256, (80, 240, 3), dtype=np.uint8).repeat(2, axis=0).repeat(2, axis=1)
    )
    write_clip(path, (pattern[:128, 3 * number : 3 * number + 160] for number in range(50)))
    return path


@pytest.mark.parametrize("reader", ["decord", "pyav"])
@pytest.mark.parametrize("positions", [[0], [49], [7, 7, 8], [30, 2, 49, 0, 2], list(range(50)), [11, 12, 13, 23, 24]])
def test_readers_give_the_frames_asked_for(reader, positions, clip):
    pictures = read(clip, np.array(positions), reader)
    assert (pictures.dtype, pictures.shape) == (np.uint8, (len(positions), 128, 160, 3))
    everything = decoded(clip).astype(np.int16)
    assert np.abs(pictures - everything[positions]).mean((1, 2, 3)).max() <= 1
    corners = np.abs(pictures[:, None, ::8, ::8] - everything[None, :, ::8, ::8]).mean((2, 3, 4))
    assert corners.argmin(1).tolist() == positions


@pytest.mark.parametrize("reader", ["decord", "pyav"])
def test_what_cannot_be_read_is_named(reader, clip, tmp_path, capfd):
    page, cut = tmp_path / "page.mp4", tmp_path / "cut.mp4"
    page.write_text("<html>" * 100)
    cut.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    for path, positions in [(clip, [3, 50]), (tmp_path / "absent.mp4", [0]), (page, [0]), (cut, [0, 49])]:
        with pytest.raises(UserError) as refusal:
            read(path, np.array(positions), reader)
        assert str(path) in str(refusal.value)
        assert "\n" not in str(refusal.value)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("positions", [[], [-1], [[0]], [0.5]])
def test_positions_that_are_none_are_refused(positions, clip):
    with pytest.raises(ValueError, match="positions"):
        read(clip, np.array(positions))


def test_decord_is_imported_without_the_libraries_of_cuda(tmp_path, monkeypatch):
    """A package in its place tells what it would have found, and the name is free again afterwards."""
    (tmp_path / "decord.py").write_text("import importlib.util\nnvidia = importlib.util.find_spec('nvidia')\n")
    (tmp_path / "nvidia.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] in ("decord", "nvidia")]:
        monkeypatch.delitem(sys.modules, name)
    assert load_decord().nvidia is None
    assert importlib.util.find_spec("nvidia") is not None
    del sys.modules["decord"]


@pytest.mark.parametrize("width", [2, 16, 32, 48, 96, 144, 176])
def test_every_width_is_read(width, tmp_path):
    """Also those at which decord2 pads its rows and then cannot copy them."""
    grey = np.arange(10, 250, 10, dtype=np.uint8)
    write_clip(tmp_path / "clip.mp4", np.broadcast_to(grey[:, None, None, None], (len(grey), 32, width, 3)))
    found = read(tmp_path / "clip.mp4", np.array([20, 3]))
    assert found.shape == (2, 32, width, 3)
    assert np.abs(found.astype(int) - grey[[20, 3], None, None, None]).max() <= 3


@pytest.mark.slow
def test_readers_agree_on_every_real_clip(real_clips):
    clips = read_manifest(real_clips / "manifest.jsonl")
    assert len(clips) == 156
    for clip in clips:
        everything = decoded(real_clips / clip.file)
        assert everything.shape == (clip.frames, clip.height, clip.width, 3)
        positions = np.unique(np.concatenate([sample_positions(clip.frames, n, "uniform") for n in (1, 4, 8, 16)]))
        pictures = read(real_clips / clip.file, positions)
        levels = np.abs(pictures.astype(np.int16) - everything[positions]).mean((1, 2, 3))
        assert levels.max() <= 1, (clip.id, levels)
