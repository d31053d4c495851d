from fractions import Fraction

import av
import numpy as np
import pytest

from slr.prepare.encode import write_clip


def moving_square(count, height=96, width=128):
    """A bright square that moves 3 pixels a frame over a gradient: every frame differs, and compresses well."""
    frames = np.zeros((count, height, width, 3), np.uint8)
    frames[..., 0] = np.linspace(0, 160, width, dtype=np.uint8)
    frames[..., 2] = np.linspace(0, 160, height, dtype=np.uint8)[:, None]
    for number, frame in enumerate(frames):
        left = 3 * number % (width - 20)
        frame[30:50, left : left + 20] = (240, 220, 40)
    return frames


def decode(path):
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def error(pictures, reference):
    return np.abs(pictures.astype(int) - reference.astype(int)).mean()


def test_pictures_come_back(tmp_path):
    frames = moving_square(37)
    assert write_clip(tmp_path / "clip.mp4", iter(frames)) == 37
    decoded = decode(tmp_path / "clip.mp4")
    assert decoded.shape == frames.shape
    own = [error(picture, frame) for picture, frame in zip(decoded, frames, strict=True)]
    next_one = [error(picture, frame) for picture, frame in zip(decoded[:-1], frames[1:], strict=True)]
    assert max(own) < 2.5  # levels; what quarter-size colour leaves at the square's edges
    assert max(own) < min(next_one)


def test_colours_come_back(tmp_path):
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 40, 90], [255, 255, 255], [0, 0, 0]], np.uint8)
    frames = np.broadcast_to(colours[:, None, None], (6, 64, 64, 3))
    write_clip(tmp_path / "clip.mp4", frames)
    assert np.abs(decode(tmp_path / "clip.mp4").astype(int) - frames).max() <= 4


def test_the_file_is_as_promised(tmp_path):
    path = tmp_path / "clip.mp4"
    write_clip(path, moving_square(37))
    with av.open(str(path)) as container:
        (stream,) = container.streams
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == stream.base_rate == 25
        assert stream.start_time == 0
        assert stream.duration * stream.time_base == Fraction(37, 25)
        packets = [packet for packet in container.demux() if packet.size]
    keys = [number for number, packet in enumerate(packets) if packet.is_keyframe]
    assert keys[0] == 0
    assert max(np.diff([*keys, len(packets)])) <= 12
    assert [packet.pts for packet in packets] == [packet.dts for packet in packets]
    content = path.read_bytes()
    assert b"elst" not in content
    assert content.index(b"moov") < content.index(b"mdat")


@pytest.mark.parametrize(("height", "width"), [(95, 127), (95, 128), (1, 1), (2, 3)])
def test_odd_sides_grow_by_their_edge(height, width, tmp_path):
    frames = moving_square(3)[:, :height, :width]
    write_clip(tmp_path / "clip.mp4", frames)
    decoded = decode(tmp_path / "clip.mp4")
    assert decoded.shape == (3, height + height % 2, width + width % 2, 3)
    assert error(decoded[:, :height, :width], frames) < 2.5
    assert error(decoded[:, -1], decoded[:, height - 1]) < 2.5


def test_the_same_frames_give_the_same_bytes(tmp_path):
    frames = moving_square(37)
    write_clip(tmp_path / "a.mp4", frames)
    write_clip(tmp_path / "b.mp4", (frame.copy() for frame in frames))
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_rate_and_quality_are_taken(tmp_path):
    frames = moving_square(10)
    write_clip(tmp_path / "fine.mp4", frames, fps=30, crf=10)
    write_clip(tmp_path / "coarse.mp4", frames, fps=30, crf=40)
    with av.open(str(tmp_path / "fine.mp4")) as container:
        assert container.streams.video[0].average_rate == 30
    assert (tmp_path / "fine.mp4").stat().st_size > (tmp_path / "coarse.mp4").stat().st_size


def failing_midway():
    yield from moving_square(5)
    raise RuntimeError("the source broke")


@pytest.mark.parametrize(
    ("frames", "raised"),
    [
        ([], ValueError),
        ([np.zeros((8, 8), np.uint8)], ValueError),
        ([np.zeros((8, 8, 3), np.float32)], ValueError),
        ([np.zeros((8, 8, 3), np.uint8), np.zeros((8, 10, 3), np.uint8)], ValueError),
        (failing_midway(), RuntimeError),
    ],
)
def test_a_failure_leaves_the_old_file_and_nothing_else(frames, raised, tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"old")
    with pytest.raises(raised):
        write_clip(path, frames)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_any_path_that_a_shell_can_pass(tmp_path, monkeypatch):
    folder = tmp_path / "it's a, folder = ü %03d"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in ["clip.mp4", "file:clip.mp4", "http:clip.mp4", "-clip.mp4", "%d.mp4"]:
        path = type(tmp_path)(name)
        assert write_clip(path, moving_square(2)) == 2
        assert len(decode(folder / name)) == 2
