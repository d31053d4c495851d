import torch

from slr.data.batch_image import draw_batch


def test_rows_of_frames_under_their_captions():
    frames = torch.zeros(3, 4, 3, 20, 20, dtype=torch.uint8)
    for clip in range(3):
        frames[clip, :, clip] = 250  # red, green, blue
    picture = draw_batch(frames, ["one", "two ä", "three 手"], side=40)
    assert picture.dtype == torch.uint8
    assert picture.shape == (3, 3 * (40 + 16), 8 * 40)
    for clip in range(3):
        patch = picture[:, clip * 56 + 16 : clip * 56 + 56, : 4 * 40].reshape(3, -1)
        assert (patch[clip] == 250).all()
        assert (patch.sum(0) == 250).all()
        assert (picture[:, clip * 56 : clip * 56 + 16] < 128).any()
