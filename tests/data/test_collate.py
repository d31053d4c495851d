import torch

from slr.data.collate import IGNORED, Sample, collate_ranking, collate_training

PAD = 9
SAMPLES = [
    Sample("a", 0, [1, 2, 3], [4, 5], torch.zeros(2, 3, 4, 4, dtype=torch.uint8)),
    Sample("b", 1, [1, 3], [6, 7, 8, 5], torch.ones(2, 3, 4, 4, dtype=torch.uint8)),
]


def test_training_pads_on_the_right_and_labels_the_answer_alone():
    batch = collate_training(SAMPLES, PAD)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5, PAD], [1, 3, 6, 7, 8, 5]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 0], [1] * 6]
    no = IGNORED
    assert batch["labels"].tolist() == [[no, no, no, 4, 5, no], [no, no, 6, 7, 8, 5]]
    assert batch["frames"].shape == (2, 2, 3, 4, 4)
    assert batch["frames"].dtype == torch.uint8
    assert batch["gloss"].tolist() == [0, 1]
    assert batch["clip"] == ["a", "b"]


def test_ranking_pads_on_the_left_and_has_no_answer():
    batch = collate_ranking(SAMPLES, PAD)
    assert batch["input_ids"].tolist() == [[1, 2, 3], [PAD, 1, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 1, 1]]
    assert (batch["labels"] == IGNORED).all()


def test_features_stand_in_place_of_frames():
    samples = [Sample("a", 0, [1, 2], [5], features=torch.full((6, 4), float(number))) for number in range(3)]
    batch = collate_ranking(samples, PAD)
    assert "frames" not in batch
    assert batch["features"].shape == (3, 6, 4)
    assert batch["features"][:, 0, 0].tolist() == [0, 1, 2]
