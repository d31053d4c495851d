from collections import Counter, defaultdict

import numpy as np
import pytest

from slr.data.manifest import Clip
from slr.data.split import PARTS, describe, make_split, read_split, write_split
from slr.errors import UserError

SHARES = {"train": 0.7, "val": 0.15, "test": 0.15}


def clip(name: str, gloss: str, signer: str | None = None, content: str | None = None) -> Clip:
    return Clip(
        id=name,
        file=f"clips/{name}.mp4",
        gloss=gloss,
        frames=30,
        fps=25.0,
        width=64,
        height=64,
        sha256=f"prepared {name}",
        source=name,
        source_sha256=content or f"source {name}",
        signer=signer,
        official_part=None,
        prompt=None,
    )


def random_clips(seed: int, count: int = 200, glosses: int = 30, signers: int = 12) -> list[Clip]:
    rng = np.random.default_rng(seed)
    clips = []
    for number in range(count):
        signer = rng.integers(signers)
        twin = f"same {signer // 2} {rng.integers(2)}" if rng.random() < 0.2 else None  # shared by two signers at most
        clips.append(clip(f"c{number}", f"g{rng.integers(glosses)}", f"s{signer}", twin))
    return clips


@pytest.mark.parametrize("rule", ["stratified", "signer"])
@pytest.mark.parametrize("seed", range(5))
def test_every_clip_lands_once_and_identical_files_stay_together(rule, seed):
    clips = random_clips(seed)
    split = make_split(clips, rule, seed, SHARES)
    assert set(split.parts) == {c.id for c in clips}
    assert set(split.parts.values()) == set(PARTS)
    parts_of_content = defaultdict(set)
    for c in clips:
        parts_of_content[c.source_sha256].add(split.parts[c.id])
    assert all(len(parts) == 1 for parts in parts_of_content.values())


@pytest.mark.parametrize("count", range(1, 41))
def test_stratified_counts_per_gloss(count):
    clips = [clip(f"a{n}", "a") for n in range(count)] + [clip(f"b{n}", "b") for n in range(10)]
    split = make_split(clips, "stratified", 0, SHARES)
    got = Counter(split.parts[c.id] for c in clips if c.gloss == "a")
    if count == 1:
        assert got == {"train": 1}
    elif count == 2:
        assert got == {"train": 1, "test": 1}
    else:
        assert min(got[part] for part in PARTS) >= 1
        for part in ("val", "test"):
            assert abs(got[part] - max(1, count * SHARES[part])) <= 0.5


@pytest.mark.parametrize("count", range(3, 12))
def test_large_shares_leave_one_clip_to_train_on(count):
    shares = {"train": 0.1, "val": 0.45, "test": 0.45}
    clips = [clip(f"a{n}", "a") for n in range(count)] + [clip(f"b{n}", "b") for n in range(count)]
    got = Counter(make_split(clips, "stratified", 0, shares).parts[c.id] for c in clips if c.gloss == "a")
    assert sum(got.values()) == count
    assert min(got[part] for part in PARTS) >= 1


@pytest.mark.parametrize("seed", range(5))
def test_signer_rule_keeps_signers_apart_and_shares_close(seed):
    clips = [clip(f"{s}-{g}", f"g{g}", f"s{s}") for s in range(40) for g in range(5)]
    split = make_split(clips, "signer", seed, SHARES)
    sides = defaultdict(set)
    for c in clips:
        sides[c.signer].add(split.parts[c.id])
    assert all(len(side) == 1 for side in sides.values())
    counts = Counter(split.parts.values())
    for part in PARTS:
        assert abs(counts[part] / len(clips) - SHARES[part]) <= 1 / 40


def test_signers_who_share_a_file_stay_together():
    clips = [clip(f"{s}-{g}", f"g{g}", f"s{s}") for s in range(20) for g in range(2)]
    clips += [clip("x", "g0", "s3", "twin"), clip("y", "g1", "s7", "twin")]
    split = make_split(clips, "signer", 0, SHARES)
    assert len({split.parts[c.id] for c in clips if c.signer in ("s3", "s7")}) == 1


def test_order_of_clips_does_not_matter_but_seed_and_content_do():
    clips = random_clips(0)
    split = make_split(clips, "stratified", 0, SHARES)
    assert make_split(clips[::-1], "stratified", 0, SHARES) == split
    assert make_split(clips, "stratified", 1, SHARES).parts != split.parts
    changed = [clip(clips[0].id, clips[0].gloss, content="other"), *clips[1:]]
    object.__setattr__(changed[0], "sha256", "other")
    assert make_split(changed, "stratified", 0, SHARES).hash != split.hash


@pytest.mark.parametrize(
    ("clips", "rule", "message"),
    [
        ([clip("a", "one"), clip("b", "one")], "stratified", "at least two glosses, found 1: one"),
        ([clip("a", "one"), clip("b", "two")], "stratified", "leaves val and test without a clip"),
        ([clip("a", "one", "s"), clip("b", "two")], "signer", "1 of 2 without one, b first"),
        ([clip("a", "one", "s"), clip("b", "two", "s")], "signer", "without a clip"),
    ],
)
def test_refusals(clips, rule, message):
    with pytest.raises(UserError, match=message):
        make_split(clips, rule, 0, SHARES)


def test_file_round_trip_and_a_changed_data_set_is_refused(tmp_path):
    clips = random_clips(0)
    split = make_split(clips, "stratified", 0, SHARES)
    write_split(tmp_path / "split.json", split)
    assert read_split(tmp_path / "split.json", clips) == split
    with pytest.raises(UserError, match="divided other clips"):
        read_split(tmp_path / "split.json", clips[1:])
    with pytest.raises(UserError, match="expected the split of a run"):
        read_split(tmp_path / "none.json", clips)


def test_description_lists_glosses_without_val_or_test():
    clips = [clip(f"a{n}", "many", "s1") for n in range(10)] + [
        clip("b", "once"),
        clip("c1", "twice"),
        clip("c2", "twice"),
    ]
    line = describe(clips, make_split(clips, "stratified", 0, SHARES))
    assert "2 of 3 glosses without a val clip: once, twice" in line
    assert "1 of 3 glosses without a test clip: once" in line
    assert "\n" not in line
