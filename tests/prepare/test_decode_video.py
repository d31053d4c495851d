import os
import struct
import sys
from fractions import Fraction

import av
import av.error
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace
from videos import number_of, numbered, write_video

from slr.prepare.decode.video import Unfit, read_untrusted, resample
from slr.prepare.encode import write_clip


def read(path, fps=25, longest_side=640):
    return list(read_untrusted(path, fps, longest_side))


def expected_numbers(times, total, fps=25):
    """By definition: the nearest picture, or the one before it where the nearest is more than half a step ahead."""
    chosen = []
    for due in np.arange(total) / fps:
        nearest = int(np.argmin(np.abs(np.array(times) - due)))
        chosen.append(nearest - 1 if times[nearest] - due >= 0.5 / fps else nearest)
    return chosen


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("clip.mp4", "mpeg4"),
        ("clip.webm", "libvpx-vp9"),
        ("clip.mkv", "mjpeg"),
        ("clip.mov", "libx264"),
        ("clip.flv", "flv"),
    ],
)
def test_other_rates_keep_their_time(name, codec, tmp_path):
    times = [number / 30 for number in range(60)]
    write_video(tmp_path / name, [numbered(number) for number in range(60)], times, codec)
    pictures = read(tmp_path / name)
    assert len(pictures) == 50  # two seconds
    assert [number_of(picture) for picture in pictures] == expected_numbers(times, 50)


def test_the_right_rate_keeps_every_picture(tmp_path):
    write_clip(tmp_path / "clip.mp4", [numbered(number) for number in range(41)])
    assert [number_of(picture) for picture in read(tmp_path / "clip.mp4")] == list(range(41))


def test_b_frames_and_edit_lists_keep_every_picture(tmp_path):
    pictures = [numbered(number) for number in range(41)]
    write_video(tmp_path / "clip.mp4", pictures, np.arange(41) / 25, "libx264", {"bf": "3", "b_strategy": "0"})
    assert b"elst" in (tmp_path / "clip.mp4").read_bytes()
    assert [number_of(picture) for picture in read(tmp_path / "clip.mp4")] == list(range(41))


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
def test_a_variable_rate_keeps_its_time(name, tmp_path):
    times = [0, 0.04, 0.08, 1.0, 1.01, 1.02, 1.06, 1.5, 1.533, 1.567, 1.6, 2.2]
    write_video(tmp_path / name, [numbered(number) for number in range(len(times))], times, "libx264", {"bf": "0"})
    numbers = [number_of(picture) for picture in read(tmp_path / name)]
    assert abs(len(numbers) - 2.2 * 25) <= 2  # the last picture's own duration is the container's guess
    assert numbers[:56] == expected_numbers(times, len(numbers))[:56]


def test_time_counts_from_the_first_picture(tmp_path):
    times = 7 + np.arange(10) / 25
    write_video(tmp_path / "clip.mkv", [numbered(number) for number in range(10)], times)
    assert [number_of(picture) for picture in read(tmp_path / "clip.mkv")] == list(range(10))


@pytest.mark.parametrize("seed", range(20))
def test_resampling_is_by_definition(seed):
    rng = np.random.default_rng(seed)
    gaps = rng.choice([0.011, 0.02, 0.033, 0.05, 0.5], size=30) * rng.uniform(0.9, 1.1, 30)
    times = np.concatenate([[0], np.cumsum(gaps[:-1])])
    chosen = list(resample(zip(times, gaps, range(30), strict=True), fps=25))
    assert abs(len(chosen) - gaps.sum() * 25) <= 0.5 + 1
    assert chosen == expected_numbers(times, len(chosen))


def oriented(path, matrix):
    """Give an MP4 a display matrix (a, b, c, d), where the container keeps it."""
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 44
    a, b, c, d = (value * 65536 for value in matrix)
    content[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)


@pytest.mark.parametrize(
    "matrix",
    [
        (1, 0, 0, 1),
        (0, 1, -1, 0),
        (-1, 0, 0, -1),
        (0, -1, 1, 0),
        (-1, 0, 0, 1),
        (1, 0, 0, -1),
        (0, 1, 1, 0),
        (0, -1, -1, 0),
    ],
)
def test_pictures_are_turned_and_mirrored_as_the_file_asks(matrix, tmp_path):
    quarters = np.zeros((64, 96, 3), np.uint8)
    quarters[:32, :48], quarters[:32, 48:], quarters[32:, :48] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    write_clip(tmp_path / "clip.mp4", [quarters])
    oriented(tmp_path / "clip.mp4", matrix)
    a, b, c, d = matrix
    down, across = np.mgrid[:64, :96]
    x, y = a * across + c * down, b * across + d * down
    shown = np.zeros((np.ptp(y) + 1, np.ptp(x) + 1, 3), np.uint8)
    shown[y - y.min(), x - x.min()] = quarters
    (picture,) = read(tmp_path / "clip.mp4")
    assert picture.shape == shown.shape
    assert np.abs(picture.astype(int) - shown).mean() < 3


def test_pixels_are_made_square(tmp_path):
    write_video(tmp_path / "wide.mp4", [numbered(5)], [0], sample_aspect_ratio=Fraction(2, 1))
    assert read(tmp_path / "wide.mp4")[0].shape == (64, 256, 3)
    write_video(tmp_path / "rounded.mp4", [numbered(5)], [0], sample_aspect_ratio=Fraction(128, 127))
    assert read(tmp_path / "rounded.mp4")[0].shape == (64, 128, 3)


@pytest.mark.parametrize(
    ("height", "width", "limit", "shape"),
    [
        (480, 854, 640, (360, 640, 3)),
        (854, 480, 640, (640, 360, 3)),
        (64, 128, 64, (32, 64, 3)),
        (65, 127, 640, (64, 128, 3)),
    ],
)
def test_large_pictures_are_made_smaller_and_sides_even(height, width, limit, shape, tmp_path):
    picture = np.zeros((height, width, 3), np.uint8)
    write_video(tmp_path / "clip.mkv", [picture], [0], "mjpeg")
    assert read(tmp_path / "clip.mkv", longest_side=limit)[0].shape == shape


@pytest.mark.parametrize("space", [Colorspace.ITU709, Colorspace.ITU601])
def test_colours_follow_the_file(space, tmp_path):
    colour = (200, 40, 90)
    frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), colour, np.uint8), format="rgb24")
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25, width=64, height=64, pix_fmt="yuv420p")
        stream.codec_context.colorspace, stream.codec_context.color_range = space, ColorRange.MPEG
        container.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace=space)))
        container.mux(stream.encode(None))
    assert np.abs(read(tmp_path / "clip.mp4")[0].mean((0, 1)) - colour).max() <= 3


def noise(count, height=64, width=64):
    return list(np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8))


def make_missing(path):
    pass


def make_folder(path):
    path.mkdir()


def make_pipe(path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("needs a system with pipes in folders")
    os.mkfifo(path)


def make_empty(path):
    path.write_bytes(b"")


def make_page(path):
    path.write_text(
        "<!DOCTYPE html><html><head><title>404</title></head><body>" + "Not found. " * 100 + "</body></html>"
    )


def make_playlist(path):
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:10\n" + "#EXTINF:10,\nhttp://127.0.0.1:9/x.ts\n" * 20)


def make_picture(path):
    with av.open(str(path), "w", format="image2", options={"update": "1"}) as container:
        stream = container.add_stream("png", width=64, height=64, pix_fmt="rgb24")
        container.mux(stream.encode(av.VideoFrame.from_ndarray(noise(1)[0], format="rgb24")))
        container.mux(stream.encode(None))


def make_sound(path):
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        samples.sample_rate = 16000
        container.mux(stream.encode(samples))
        container.mux(stream.encode(None))


def make_huge(path):
    write_video(path, [np.zeros((32, 4112, 3), np.uint8)], [0], "mpeg4")


def make_encrypted(path):
    scheme = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "01" * 16, "encryption_kid": "02" * 16}
    write_video(path, noise(5), np.arange(5) / 25, "libx264", {"bf": "0"}, scheme)


def make_without_index(path):
    write_video(path, noise(30), np.arange(30) / 25, "libx264")
    path.write_bytes(path.read_bytes()[:4096])


def make_cut(path):
    write_clip(path, noise(30))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def make_cut_avi(path):
    write_video(path.with_suffix(".avi"), noise(30), np.arange(30) / 25, "mpeg4")
    path.write_bytes(path.with_suffix(".avi").read_bytes()[:1500])


def make_garbage(path):
    path.write_bytes(np.random.default_rng(0).bytes(5000))


def make_scrambled(path):
    write_clip(path, noise(30))
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 4
    content[start:] = bytes(len(content) - start)
    path.write_bytes(content)


def make_leaping(path):
    write_video(path, [numbered(1), numbered(2)], [0, 4000], muxing={"max_interleave_delta": "0"})


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (make_missing, "missing"),
        (make_folder, "not_a_file"),
        (make_pipe, "not_a_file"),
        (make_empty, "too_small"),
        (make_page, "page"),
        (make_playlist, "playlist"),
        (make_picture, "picture"),
        (make_sound, "no_video_stream"),
        (make_huge, "dimensions"),
        (make_encrypted, "encrypted"),
        (make_garbage, "not_video"),
        (make_scrambled, "broken"),
        (make_without_index, "truncated"),
        (make_cut, "truncated"),
        (make_cut_avi, "truncated"),
        (make_leaping, "too_long"),
    ],
)
def test_what_is_no_clip_is_told_apart(make, reason, tmp_path):
    path = tmp_path / "clip.mp4"
    make(path)
    with pytest.raises(Unfit) as refusal:
        read(path)
    assert refusal.value.reason == reason
    assert refusal.value.detail
    assert str(tmp_path) not in refusal.value.detail


def test_flash_films_are_read(tmp_path):
    times = np.arange(20) / 25
    write_video(tmp_path / "clip.swf", [numbered(number) for number in range(20)], times, "flv", rate=25)
    assert [number_of(picture) for picture in read(tmp_path / "clip.swf")] == list(range(20))


def test_memory_does_not_grow_with_the_clip(tmp_path):
    if sys.platform != "linux":
        pytest.skip("other systems count resident memory in other units")
    resource = pytest.importorskip("resource")
    write_clip(tmp_path / "clip.mp4", (np.zeros((720, 1280, 3), np.uint8) for _ in range(400)))
    iterator = read_untrusted(tmp_path / "clip.mp4", 25, 640)
    for _ in range(50):
        next(iterator)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert sum(1 for _ in iterator) == 350
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * 1024 < 100e6  # 350 decoded frames would be 480 MB
