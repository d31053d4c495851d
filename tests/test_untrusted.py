import os
import struct
import sys
from fractions import Fraction

import av
import av.error
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace

from slr.prepare.encode import write_clip
from slr.prepare.untrusted import Cut, Unfit, read_untrusted, resample
from slr.prepare.view import Crop

BITS = 8


def numbered(number, height=64, width=128, bits=BITS):
    """A picture that carries its number as black or white bars: it survives any codec."""
    bars = [(number >> bit) & 1 for bit in range(bits)]
    row = np.repeat(np.array(bars, np.uint8) * 255, width // bits)
    return np.broadcast_to(row[None, :, None], (height, width, 3)).copy()


def number_of(picture, bits=BITS):
    width = picture.shape[1] // bits
    return sum(
        int(picture[:, bit * width + width // 4 : (bit + 1) * width - width // 4].mean() > 127) << bit
        for bit in range(bits)
    )


def write_video(path, pictures, times, codec="mpeg4", options=None, muxing=None, rate=30, **stream_settings):
    """Write pictures at the given seconds, in thousandths, as somebody else's encoder would."""
    with av.open(str(path), "w", options=muxing or {}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.options = options or {}
        base = Fraction(1, rate if path.suffix in (".swf", ".avi") else 1000)
        stream.codec_context.time_base = base
        for name, value in stream_settings.items():
            setattr(stream.codec_context, name, value)
        for picture, time in zip(pictures, times, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=stream.pix_fmt)
            frame.pts, frame.time_base = round(time / base), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


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


@pytest.mark.parametrize("name", ["long.mp4", "long.mkv", "long.avi"])
def test_a_range_is_cut_by_time(name, tmp_path):
    """WLASL's 2249 to 2285, counted from 1 at 25 a second, of a recording at 30 a second."""
    times = [number / 30 for number in range(2800)]
    pictures = [numbered(number, 32, 192, 12) for number in range(2800)]
    options = {"bf": "2", "g": "250", "preset": "ultrafast"} if name != "long.avi" else {}
    write_video(tmp_path / name, pictures, times, "libx264" if options else "mpeg4", options)
    cut = list(read_untrusted(tmp_path / name, 25, 640, Cut(2249, 2285)))
    shown = [number_of(picture, 12) for picture in cut]
    assert len(shown) == 37
    # The picture number n of 25 a second is due at (n - 1) / 25; AVI drops nothing but may round its times.
    assert shown == [round((number - 1) / 25 * 30) for number in range(2249, 2286)]


@pytest.fixture(scope="module")
def eighty(tmp_path_factory):
    """Four hundred pictures at 25 a second with key frames far apart and B-frames, which shift its edit list."""
    path = tmp_path_factory.mktemp("eighty") / "clip.mp4"
    pictures = [numbered(number, 32, 144, 9) for number in range(400)]
    write_video(path, pictures, np.arange(400) / 25, "libx264", {"bf": "3", "g": "90", "sc_threshold": "0"})
    return path


@pytest.mark.parametrize("cut", [(1, 12), (2, 2), (90, 130), (91, -1), (102, 140), (250, 400), (399, -1), (393, 402)])
def test_any_range_gives_its_pictures(eighty, cut):
    first, last = cut
    shown = [number_of(picture, 9) for picture in read_untrusted(eighty, 25, 640, Cut(first, last))]
    assert shown == list(range(first - 1, 400 if last == -1 else min(last, 400)))


@pytest.mark.parametrize("cut", [(401, 420), (500, -1), (9000, 9100), (390, 420)])
def test_a_range_past_the_end_is_told(eighty, cut):
    with pytest.raises(Unfit) as refusal:
        list(read_untrusted(eighty, 25, 640, Cut(*cut)))
    assert refusal.value.reason == "range_past_end"


def test_flash_films_are_read(tmp_path):
    times = np.arange(20) / 25
    write_video(tmp_path / "clip.swf", [numbered(number) for number in range(20)], times, "flv", rate=25)
    assert [number_of(picture) for picture in read(tmp_path / "clip.swf")] == list(range(20))


def boxed(box, height=96, width=160):
    """A dark picture with a white box."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[box[1] : box[3], box[0] : box[2]] = 255
    return picture


@pytest.mark.parametrize("size", [(96, 160), (48, 80), (192, 320), (540, 900)])
def test_a_crop_follows_the_box_into_a_resized_copy(tmp_path, size):
    box = (40, 24, 100, 96)
    picture = boxed(box)
    copy = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(size[1], size[0]).to_ndarray(format="rgb24")
    write_video(tmp_path / "clip.mp4", [copy] * 10, np.arange(10) / 25, "libx264", {"bf": "0", "qp": "4"})
    (first, *_) = read_untrusted(tmp_path / "clip.mp4", 25, 640, Cut(1, -1, Crop(box, (96,), 0)))
    assert first[2:-2, 2:-2].min() > 200
    scale = size[0] / 96
    assert first.shape[:2] == pytest.approx((72 * scale, 60 * scale), abs=2)
    (first, *_) = read_untrusted(tmp_path / "clip.mp4", 25, 640, Cut(1, -1, Crop(box, (96,), 0.5)))
    assert first.shape[:2] == pytest.approx((96 * scale, 120 * scale) if size[0] < 540 else (512, 640), abs=4)
    assert first[:, :2].max() < 60
    assert first[0].max() < 60


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
