import av
import numpy as np
import pytest
from videos import number_of, numbered, write_video

from slr.prepare.decode.crop import Crop
from slr.prepare.decode.video import Cut, Unfit, read_untrusted


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
