"""The drawn signer: what divides pretraining from data sets, what a pair is, and what the pictures show."""

import itertools

import numpy as np
import pytest

from slr.prepare.synthetic.clip import FPS, Performance
from slr.prepare.synthetic.motion import Point, Timing, along, dominant_hand, draw_timing
from slr.prepare.synthetic.signer import Signer
from slr.prepare.synthetic.signs import (
    HANDS,
    HANDSHAPES,
    LOCATIONS,
    PATHS,
    SYLLABLES,
    Side,
    Sign,
    names,
    signer_seed,
    signs,
)

MOVEMENTS = [movement for pair in PATHS.values() for movement in pair]


def test_every_combination_is_on_one_side():
    both = signs(Side.PRETRAINING) + signs(Side.DATA_SET)
    everything = {Sign(*parts) for parts in itertools.product(HANDSHAPES, LOCATIONS, MOVEMENTS, HANDS)}
    assert len(both) == len(set(both)) == len(everything)
    assert set(both) == everything
    assert len(signs(Side.DATA_SET)) >= 40


def test_pretraining_sees_every_two_parameters_together():
    known = signs(Side.PRETRAINING)
    for left, right in itertools.combinations(("handshape", "location", "movement", "hands"), 2):
        seen = {(getattr(sign, left), getattr(sign, right)) for sign in known}
        values = [{getattr(sign, name) for sign in known} for name in (left, right)]
        assert seen == set(itertools.product(*values))


def test_names_are_unlike_and_on_one_side():
    ours, theirs = names(Side.DATA_SET, 288), names(Side.PRETRAINING, 2000)
    assert len(set(ours)) == 288
    assert len(set(theirs)) == 2000
    assert not set(ours) & set(theirs)
    for name in ours + theirs:
        syllables = [name[i : i + 2] for i in range(0, len(name), 2)]
        assert 2 <= len(syllables) <= 3
        assert set(syllables) <= set(SYLLABLES)


def test_signers_are_on_one_side():
    ours = {signer_seed(Side.DATA_SET, i) for i in range(1000)}
    assert len(ours) == 1000
    assert not ours & {signer_seed(Side.PRETRAINING, i) for i in range(100_000)}


@pytest.mark.parametrize("side", list(Side))
def test_signs_come_in_pairs_that_differ_in_direction_only(side):
    drawn = signs(side)
    for sign, other in zip(drawn[::2], drawn[1::2], strict=True):
        assert sign.reverse == other
        assert other.reverse == sign
        assert (sign.handshape, sign.location, sign.path, sign.hands) == (
            other.handshape,
            other.location,
            other.path,
            other.hands,
        )
        assert sign.movement != other.movement


@pytest.mark.parametrize("path", PATHS)
def test_the_two_movements_of_a_path_are_each_other_reversed(path):
    """With symmetric timing the hand's track of one sign is the other's read from the end."""
    forward, backward = (Sign("fist", "chest", movement, 1) for movement in PATHS[path])
    timing = Timing(before=0.1, approach=0.2, movement=0.8, retreat=0.2, after=0.1)
    times = np.linspace(0, 1.4, 57)
    tracks = [
        [dominant_hand(sign, timing.moment(time), Point(0, 0), 1.0) for time in times] for sign in (forward, backward)
    ]
    np.testing.assert_allclose(tracks[0], tracks[1][::-1], atol=1e-9)
    assert np.abs(np.subtract(tracks[0], tracks[1])).max() > 0.1


@pytest.mark.parametrize("path", PATHS)
def test_a_path_is_continuous_and_large(path):
    points = np.array([along(path, t) for t in np.linspace(0, 1, 501)])
    assert np.linalg.norm(np.diff(points, axis=0), axis=1).max() < 0.03
    assert np.ptp(points, axis=0).max() >= 1.5


def test_timing_lasts_as_long_as_it_says():
    rng = np.random.default_rng(0)
    lengths = [draw_timing(tempo, rng).frames(FPS) / FPS for tempo in np.linspace(0.85, 1.2, 200)]
    assert 0.9 < min(lengths) < max(lengths) < 2.6
    assert 1.2 < np.mean(lengths) < 2.0


def test_the_same_seeds_give_the_same_pictures_and_others_do_not():
    sign = signs(Side.DATA_SET)[0]
    first, again = (Performance(sign, Signer(5), seed=3).draw(10, 96) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert (first != Performance(sign, Signer(7), seed=3).draw(10, 96)).any()
    assert (first != Performance(sign, Signer(5), seed=4).draw(10, 96)).any()


def test_frames_can_be_drawn_in_any_order_and_size():
    performance = Performance(signs(Side.DATA_SET)[2], Signer(1), seed=0)
    last, first = performance.draw(performance.frames - 1, 64), performance.draw(0, 64)
    fresh = Performance(signs(Side.DATA_SET)[2], Signer(1), seed=0)
    assert fresh.draw(0, 128).shape == (128, 128, 3)
    np.testing.assert_array_equal(fresh.draw(0, 64), first)
    np.testing.assert_array_equal(fresh.draw(performance.frames - 1, 64), last)


def test_about_one_signer_in_eight_is_left_handed_and_signs_on_the_other_side():
    people = [Signer(seed) for seed in range(2000)]
    assert 0.09 < np.mean([person.left_handed for person in people]) < 0.16
    for person in people[:100]:
        performance = Performance(Sign("flat", "flank", "up", 1), person, seed=0)
        palm, _, head = performance.pose(performance.frames // 2)
        assert (palm.x > head.x) == person.left_handed


def test_a_hand_is_drawn_where_the_pose_says():
    """Frames of one clip differ where the hand is and where it was, hence around the two poses."""
    for seed in range(6):
        performance = Performance(Sign("spread", "shoulder", "up", 1), Signer(2 * seed), seed)
        start, end = (round(performance.frames * share) for share in (0.4, 0.62))
        change = np.abs(performance.draw(start, 96).astype(int) - performance.draw(end, 96)).sum(axis=2)
        for frame in (start, end):
            hand, *_ = performance.pose(frame)
            row, column = round(hand.y * 96), round(hand.x * 96)
            assert change[row - 3 : row + 4, column - 3 : column + 4].mean() > 3 * np.median(change) + 5


def test_hands_stand_out_from_clothes_and_wall():
    for seed in range(200):
        person = Signer(seed)
        for other in (person.clothes, person.wall):
            assert np.linalg.norm(np.subtract(person.skin, other)) > 60
