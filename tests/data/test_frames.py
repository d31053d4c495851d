"""The frame cache, held against decoding the clips anew."""

import dataclasses
import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from slr.core.errors import UserError, one_line
from slr.data import video
from slr.data.cache import frames as module
from slr.data.cache import store
from slr.data.cache.frames import FrameCache, fill
from slr.data.cache.store import Pack, writing
from slr.data.manifest import Clip, read_manifest
from slr.data.video import sample_positions
from slr.models.processor import load_inputs
from slr.prepare.encode import write_clip
from slr.prepare.synthetic.prepare import prepare_synthetic

POSIX = pytest.mark.skipif(os.name != "posix", reason="needs kill -9")
# Fills a raw cache with frames of clips that are called by numbers, and tells how many frames it decoded.
FILL = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
from slr.data import video
from slr.data.cache import store
from slr.data.cache.frames import FrameCache, fill
from test_frames import Decoding, numbered
from slr.models.processor import load_inputs
if __name__ == "__main__":
    folder, root, count, workers = pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]), *map(int, sys.argv[4:6])
    store.COMMIT_SECONDS = 0  # readers find every record at once
    inputs = load_inputs("tiny", None)
    decoding = Decoding(folder, inputs)
    fill(FrameCache(root, inputs, "raw"), decoding, numbered(count), workers)
    print(len(decoding.asked))
"""


class Decoding:
    """Decodes, and remembers what it was asked for."""

    def __init__(self, folder, inputs):
        self.folder, self.inputs = folder, inputs
        self.asked = []

    def __call__(self, clip, positions):
        self.asked.extend((clip.sha256, position) for position in positions.tolist())
        return self.inputs.resize(video.read(self.folder / clip.file, positions))


@pytest.fixture(scope="module")
def inputs():
    return load_inputs("tiny", None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Seven clips of noise that drifts, of 20 to 26 frames."""
    folder = tmp_path_factory.mktemp("prepared")
    rng = np.random.default_rng(0)
    for number in range(7):
        base = rng.integers(0, 200, (48, 64, 3), dtype=np.uint8)
        write_clip(folder / f"{number}.mp4", (np.roll(base, 2 * t, 1) + t for t in range(20 + number)))
    return folder


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Drawn signers: the folder and its clips."""
    manifest = prepare_synthetic(tmp_path_factory.mktemp("drawn"), 4, 10, 1, seed=0, size=160, workers=1)
    return manifest.parent, read_manifest(manifest)


def numbered(count, frames=4):
    """Uniform frames of the seven clips, each again and again under another content's name."""
    wanted = []
    for number in range(count):
        file, length = f"{number % 7}.mp4", 20 + number % 7
        about = {"id": str(number), "file": file, "gloss": "a", "frames": length, "sha256": f"{number:064x}"}
        about |= {"fps": 25.0, "width": 64, "height": 48, "source": "", "source_sha256": "", "signer": None}
        clip = Clip(**about, official_part=None, prompt=None)
        wanted.append((clip, sample_positions(length, frames, "uniform")))
    return wanted


def start(folder, root, count, workers):
    words = [str(Path(__file__).parent), str(folder), str(root), str(count), str(workers)]
    return subprocess.Popen(
        [sys.executable, "-c", FILL, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def same(cache, decoded, wanted):
    return all(torch.equal(cache(*one), decoded(*one)) for one in wanted)


@pytest.mark.parametrize("workers", [0, 2])
def test_raw_frames_are_those_of_the_video(tmp_path, folder, inputs, workers):
    cache, decoded, wanted = FrameCache(tmp_path, inputs, "raw"), Decoding(folder, inputs), numbered(20)
    fill(cache, decoded, wanted, workers)
    assert same(cache, decoded, wanted)
    backwards = np.array([*wanted[3][1][::-1], *wanted[3][1]])
    assert torch.equal(cache(wanted[3][0], backwards), decoded(wanted[3][0], backwards))
    assert cache(*wanted[0]).is_contiguous()
    assert len(cache.pack) == 20 * 4


def test_jpeg_frames_differ_by_two_levels_at_most(tmp_path, drawn, inputs):
    folder, clips = drawn
    cache, decoded = FrameCache(tmp_path, inputs, "jpeg"), Decoding(folder, inputs)
    wanted = [(clip, sample_positions(clip.frames, 8, "uniform")) for clip in clips]
    fill(cache, decoded, wanted, 2)
    for one in wanted:
        kept, truth = cache(*one), decoded(*one)
        assert kept.shape == truth.shape
        assert kept.dtype == truth.dtype
        assert kept.is_contiguous()
        assert (kept.float() - truth.float()).abs().mean(dim=(1, 2, 3)).max() <= 2


def test_the_estimate_is_what_the_frames_take(tmp_path, drawn, inputs, monkeypatch, capsys):
    folder, clips = drawn
    told = []
    truth = module.estimate
    monkeypatch.setattr(module, "MEASURED", 8)
    monkeypatch.setattr(module, "estimate", lambda left, first: told.append(truth(left, first)) or told[-1])
    for format in ("jpeg", "raw"):
        cache = FrameCache(tmp_path, inputs, format)
        fill(cache, Decoding(folder, inputs), [(clip, np.arange(0, clip.frames, 5)) for clip in clips], 0)
        taken = sum(path.stat().st_size for path in cache.pack.folder.iterdir())
        assert abs(told[-1] - taken) <= 0.1 * taken
        assert f"frame cache: {len(cache.pack)} frames of {len(clips)} clips to add, about" in capsys.readouterr().out


def test_other_numbers_of_frames_share_what_is_there(tmp_path, folder, inputs):
    cache, decoding = FrameCache(tmp_path, inputs, "raw"), Decoding(folder, inputs)
    kept: set = set()
    for frames in (4, 8, 4, 12):
        wanted = numbered(7, frames)
        decoding.asked.clear()
        fill(cache, decoding, wanted, 0)
        new = {(clip.sha256, position) for clip, positions in wanted for position in positions.tolist()} - kept
        assert sorted(decoding.asked) == sorted(new)
        kept |= new
        assert same(cache, Decoding(folder, inputs), wanted)
    assert len(cache.pack) == len(kept)


def test_one_content_under_two_names_is_decoded_once(tmp_path, folder, inputs):
    decoding = Decoding(folder, inputs)
    [(clip, positions)] = numbered(1)
    twin = dataclasses.replace(clip, id="twin")
    cache = FrameCache(tmp_path, inputs, "raw")
    fill(cache, decoding, [(clip, positions[:3]), (twin, positions[1:]), (twin, positions[[0, 0]])], 0)
    assert sorted(decoding.asked) == [(clip.sha256, position) for position in positions.tolist()]
    assert same(cache, Decoding(folder, inputs), [(twin, positions)])


def test_a_clip_that_was_prepared_anew_is_not_served(tmp_path, folder, inputs):
    cache = FrameCache(tmp_path, inputs, "raw")
    [(clip, positions)] = numbered(1)
    fill(cache, Decoding(folder, inputs), [(clip, positions)], 0)
    changed = dataclasses.replace(clip, file="1.mp4", sha256="f" * 64)
    with pytest.raises(UserError, match=r"no record of f+ \d+; delete that folder") as caught:
        cache(changed, positions)
    assert "\n" not in str(caught.value)
    fill(cache, Decoding(folder, inputs), [(changed, positions)], 0)
    assert same(cache, Decoding(folder, inputs), [(clip, positions), (changed, positions)])


def test_every_way_of_making_frames_has_its_folder(tmp_path, inputs):
    class Other:
        def __init__(self, change):
            self.change = change

        def resize(self, frames):
            return self.change(inputs.resize(frames))

    ways = [Other(lambda f: f), Other(lambda f: f[..., :48]), Other(lambda f: f // 2), Other(lambda f: f.flip(-1))]
    folders = [FrameCache(tmp_path, way, format).pack.folder for way in ways for format in ("jpeg", "raw")]
    assert len(set(folders)) == 8
    assert FrameCache(tmp_path, inputs, "jpeg").pack.folder == folders[0]


@pytest.mark.parametrize("format", ["jpeg", "raw"])
def test_a_torn_tail_is_decoded_again(tmp_path, folder, inputs, format):
    cache, decoding, wanted = FrameCache(tmp_path, inputs, format), Decoding(folder, inputs), numbered(5)
    fill(cache, decoding, wanted, 0)
    last = decoding.asked[-1]
    before = [cache(*one) for one in wanted]
    data = cache.pack.folder / "data.bin"
    data.write_bytes(data.read_bytes()[:-1])
    cache.pack.reopen()
    decoding.asked.clear()
    fill(cache, decoding, wanted, 0)
    assert decoding.asked == [last]
    assert all(torch.equal(cache(*one), frames) for one, frames in zip(wanted, before, strict=True))


def test_a_damaged_record_is_one_line(tmp_path, folder, inputs):
    cache, wanted = FrameCache(tmp_path, inputs, "jpeg"), numbered(1)
    fill(cache, Decoding(folder, inputs), wanted, 0)
    data = cache.pack.folder / "data.bin"
    data.write_bytes(bytes(data.stat().st_size))
    with pytest.raises(UserError, match="delete that folder") as caught:
        cache(*wanted[0])
    assert "\n" not in str(caught.value)


@pytest.mark.e2e
@POSIX
@pytest.mark.parametrize("workers", [0, 2])
def test_filling_goes_on_where_it_was_killed(tmp_path, folder, inputs, workers):
    """Its workers, which hold the lock with it, notice within seconds."""
    many = numbered(5_000)
    first = start(folder, tmp_path, len(many), workers)
    cache = FrameCache(tmp_path, inputs, "raw")
    while len(cache.pack) < 20:
        assert first.poll() is None
        cache.pack.reopen()
    first.send_signal(signal.SIGKILL)
    first.communicate()
    cache.pack.reopen()
    left = cache.missing(many)
    assert 0 < len(left) < len(many)
    numbers = {clip.id for clip, _ in left}
    kept = [one for one in many if one[0].id not in numbers]
    decoding, decoded = Decoding(folder, inputs), Decoding(folder, inputs)
    assert same(cache, decoded, kept)
    fill(cache, decoding, kept + left[:10], 0)
    assert len(decoding.asked) == sum(len(positions) for _, positions in left[:10])
    assert same(cache, decoded, [many[int(clip.id)] for clip, _ in left[:10]])


@pytest.mark.e2e
def test_of_two_that_fill_at_once_one_waits_and_finds_all(tmp_path, folder, inputs):
    cache, wanted = FrameCache(tmp_path, inputs, "raw"), numbered(60)
    with writing(cache.pack.folder):
        both = [start(folder, tmp_path, len(wanted), 0) for _ in range(2)]
        for one in both:
            assert one.stderr is not None
            assert "Waiting for another process" in one.stderr.readline()
    decoded = [int(one.communicate(timeout=300)[0].splitlines()[-1]) for one in both]
    assert [one.returncode for one in both] == [0, 0]
    assert sorted(decoded) == [0, 60 * 4]
    cache.pack.reopen()
    assert same(cache, Decoding(folder, inputs), wanted)


def test_a_disk_that_fills_up_is_one_line_and_keeps_what_was_whole(tmp_path, folder, inputs, monkeypatch):
    cache, decoding, wanted = FrameCache(tmp_path, inputs, "raw"), Decoding(folder, inputs), numbered(20)
    truth = store._write

    def full(file, content):
        size = os.fstat(file.fileno()).st_size
        if size + len(content) > 1_000_000:  # 36 frames
            file.write(content[: 1_000_000 - size])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        truth(file, content)

    monkeypatch.setattr(store, "_write", full)
    with pytest.raises(UserError, match="No space left on device; make room") as caught:
        fill(cache, decoding, wanted, 0)
    assert str(cache.pack.folder) in str(caught.value)
    assert len(Pack(cache.pack.folder)) == 1_000_000 // (3 * 96 * 96)
    monkeypatch.setattr(store, "_write", truth)
    decoding.asked.clear()
    fill(cache, decoding, wanted, 0)
    assert len(decoding.asked) == 80 - 36
    assert same(cache, Decoding(folder, inputs), wanted)


def test_too_little_room_is_refused_before_anything_is_written(tmp_path, folder, inputs, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda path: usage._replace(free=2_000_000))
    cache = FrameCache(tmp_path, inputs, "raw")
    with pytest.raises(UserError, match=r"expected 2 MB free in .*, found 2 MB; make room, or choose cache.format"):
        fill(cache, Decoding(folder, inputs), numbered(20), 0)
    assert len(Pack(cache.pack.folder)) == 0
    fill(cache, Decoding(folder, inputs), numbered(10), 0)


def test_a_clip_that_cannot_be_read_is_one_line(tmp_path, folder, inputs):
    wanted = numbered(20)
    wanted[7] = (dataclasses.replace(wanted[7][0], file="lost.mp4"), wanted[7][1])
    for workers in (0, 2):
        with pytest.raises(UserError) as caught:
            fill(FrameCache(tmp_path, inputs, "raw"), Decoding(folder, inputs), wanted, workers)
        assert one_line(caught.value).startswith(
            f"expected the prepared clip {folder / 'lost.mp4'}, found no such file"
        )


def test_filling_leaves_the_global_generator_alone(tmp_path, folder, inputs):
    """Dropout draws from it: whether the cache was there must not matter to a run."""
    torch.manual_seed(0)
    before = torch.get_rng_state()
    fill(FrameCache(tmp_path, inputs, "raw"), Decoding(folder, inputs), numbered(20), 2)
    assert torch.equal(torch.get_rng_state(), before)
