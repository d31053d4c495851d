import dataclasses
import itertools
import re
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from slr.core.errors import UserError
from slr.data.manifest import Clip
from slr.data.split import PARTS, describe, make_split, read_split, write_split

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


def components(ids: list[str], links: list[tuple[str, str]]) -> list[list[str]]:
    """Groups of linked ids, by scipy."""
    at = {name: number for number, name in enumerate(ids)}
    rows, columns = ([at[link[side]] for link in links] for side in (0, 1))
    _, labels = connected_components(coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(ids), len(ids))))
    groups = defaultdict(list)
    for name, label in zip(ids, labels.tolist(), strict=True):
        groups[label].append(name)
    return [group for group in groups.values() if len(group) > 1]


def random_links(clips: list[Clip], seed: int, count: int = 15) -> list[tuple[str, str]]:
    rng = np.random.default_rng(seed)
    return [tuple(rng.choice([c.id for c in clips], 2, replace=False).tolist()) for _ in range(count)]


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
    for change in ({"gloss": "x"}, {"signer": "x"}, {"prompt": "x"}, {"frames": 1}, {"sha256": "x"}):
        with pytest.raises(UserError, match="divided other clips"):
            read_split(tmp_path / "split.json", [dataclasses.replace(clips[0], **change), *clips[1:]])
    moved = [dataclasses.replace(one, source="elsewhere.mp4") for one in clips]
    assert read_split(tmp_path / "split.json", moved) == split
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


@pytest.mark.parametrize("rule", ["stratified", "signer"])
@pytest.mark.parametrize("seed", range(5))
def test_near_copies_and_segments_stay_together(rule, seed):
    clips = random_clips(seed, signers=40)
    # Six pairs that the data set calls one segment, beside links that pictures gave.
    segment = {c.id: f"segment {n // 2}" for n, c in enumerate(clips[:12])}
    clips = [replace(c, segment=segment.get(c.id)) for c in clips]
    links = random_links(clips, seed)
    split = make_split(clips, rule, seed, SHARES, links)
    known = [(clips[n].id, clips[n + 1].id) for n in range(0, 12, 2)]
    groups = components([c.id for c in clips], [*links, *known])
    assert groups
    assert all(len({split.parts[name] for name in group}) == 1 for group in groups)
    assert make_split(clips[::-1], rule, seed, SHARES, links) == split
    if rule == "signer":
        assert all(
            split.parts[a.id] == split.parts[b.id] for a, b in itertools.combinations(clips, 2) if a.signer == b.signer
        )


def official_clips(seed: int) -> list[Clip]:
    rng = np.random.default_rng(seed)
    return [replace(c, official_part=PARTS[rng.choice(3, p=[0.6, 0.2, 0.2])]) for c in random_clips(seed)]


@pytest.mark.parametrize("seed", range(8))
def test_official_parts_are_kept_and_their_leaks_told_or_dropped(seed, tmp_path):
    clips = official_clips(seed)
    part = {c.id: c.official_part for c in clips}
    links = random_links(clips, seed)
    same = [(a.id, b.id) for a, b in itertools.combinations(clips, 2) if a.source_sha256 == b.source_sha256]
    expected = set()
    for group in components([c.id for c in clips], [*links, *same]):
        parts = {part[name] for name in group}
        last = "test" if "test" in parts else "val" if "val" in parts else "train"
        expected |= {name for name in group if part[name] != last}

    kept = make_split(clips, "official", 0, SHARES, links)
    assert kept.parts == part
    assert set(kept.leaks) == expected
    assert len(expected) > 3
    assert f"{len(expected)} train or val clips show the recording of a val or test clip: kept" in describe(clips, kept)

    dropped = make_split(clips, "official", 0, SHARES, links, drop_leaks=True)
    assert dropped.parts == {name: p for name, p in part.items() if name not in expected}
    assert dropped.leaks == kept.leaks
    assert dropped.hash != kept.hash
    assert "left out" in describe(clips, dropped)
    for name in PARTS:
        assert [c.id for c in dropped.select(clips, name)] == [c.id for c in clips if dropped.parts.get(c.id) == name]
    assert [c.id for c in dropped.select(clips, "all")] == [c.id for c in clips if c.id not in expected]
    write_split(tmp_path / "split.json", dropped)
    assert read_split(tmp_path / "split.json", clips) == dropped
    with pytest.raises(UserError, match="divided other clips"):
        read_split(tmp_path / "split.json", [c for c in clips if c.id not in expected])


def test_test_outranks_val_and_val_outranks_train():
    parts = {"a": "train", "b": "val", "c": "test", "d": "train", "e": "val", "f": "train", "g": "test"}
    clips = [replace(clip(name, f"g{n % 2}"), official_part=part) for n, (name, part) in enumerate(parts.items())]
    split = make_split(clips, "official", 0, SHARES, [("a", "b"), ("b", "c"), ("d", "e")], drop_leaks=True)
    assert split.leaks == {"a": "c", "b": "c", "d": "e"}
    assert split.parts == {"c": "test", "e": "val", "f": "train", "g": "test"}


def test_official_needs_a_part_of_every_clip():
    clips = [*official_clips(0), clip("z", "g0")]
    with pytest.raises(UserError, match="1 of 201 without one, z first"):
        make_split(clips, "official", 0, SHARES)
    with pytest.raises(UserError, match="split=official leaves val without a clip"):
        make_split([c for c in clips if c.official_part in ("train", "test")], "official", 0, SHARES)


def covered(clips: list[Clip], parts: dict[str, str]) -> float:
    glosses = {side: {c.gloss for c in clips if parts[c.id] == side} for side in PARTS}
    return len(glosses["train"] & glosses["test"]) / len({c.gloss for c in clips})


def sparse_clips(seed: int, signers: int, glosses: int, each: int) -> list[Clip]:
    """Every signer makes `each` of the glosses."""
    rng = np.random.default_rng(seed)
    chosen = {s: rng.choice(glosses, each, replace=False).tolist() for s in range(signers)}
    return [clip(f"{s}-{g}", f"g{g}", f"s{s}") for s in range(signers) for g in chosen[s]]


@pytest.mark.parametrize("seed", range(6))
def test_the_asked_coverage_is_reached_where_largest_first_misses_it(seed):
    clips = sparse_clips(seed, 60, 100, 12)
    free = make_split(clips, "signer", seed, SHARES)
    asked = 0.85
    assert covered(clips, free.parts) < asked
    split = make_split(clips, "signer", seed, SHARES, coverage=asked)
    assert covered(clips, split.parts) >= asked
    sides = defaultdict(set)
    for c in clips:
        sides[c.signer].add(split.parts[c.id])
    assert all(len(side) == 1 for side in sides.values())
    counts = Counter(split.parts.values())
    assert all(abs(counts[part] / len(clips) - SHARES[part]) <= 0.02 + 1e-9 for part in PARTS)
    assert make_split(clips[::-1], "signer", seed, SHARES, coverage=asked) == split


@pytest.mark.parametrize("seed", range(6))
def test_a_coverage_is_refused_only_where_no_division_reaches_it(seed):
    clips = sparse_clips(seed, 7, 8, 4)
    shares = {"train": 0.5, "val": 0.2, "test": 0.3}
    free = Counter(make_split(clips, "signer", seed, shares).parts.values())
    slack = max(0.02 * len(clips), *(abs(free[part] - shares[part] * len(clips)) for part in PARTS))
    best = 0.0
    for sides in itertools.product(PARTS, repeat=7):
        parts = {c.id: sides[int(c.signer[1:])] for c in clips}
        sizes = Counter(parts.values())
        if all(sizes[part] and abs(sizes[part] - shares[part] * len(clips)) <= slack + 1e-9 for part in PARTS):
            best = max(best, covered(clips, parts))
    glosses = len({c.gloss for c in clips})
    assert covered(clips, make_split(clips, "signer", seed, shares, coverage=best).parts) >= best
    with pytest.raises(UserError, match="glosses in train and test, found"):
        make_split(clips, "signer", seed, shares, coverage=best + 1 / glosses)


def test_glosses_of_one_signer_are_listed_and_bound_the_coverage():
    clips = [clip(f"{s}-{g}", f"g{g}", f"s{s}") for s in range(20) for g in range(4)]
    clips += [clip(f"x{n}", "lonely", "s5") for n in range(3)]
    split = make_split(clips, "signer", 0, SHARES, coverage=0.8)
    assert split.uncoverable == ["lonely"]
    assert "glosses have clips that must stay in one part: lonely" in describe(clips, split)
    message = r"clips of 1 are of one signer only \(lonely\); set split.coverage=0.8 or less"
    with pytest.raises(UserError, match=message):
        make_split(clips, "signer", 0, SHARES, coverage=0.9)


@pytest.mark.parametrize(("signers", "glosses", "shared"), [(9, 118, 2), (9, 118, 1), (20, 61, 35), (12, 40, 40)])
def test_the_coverage_that_a_refusal_names_is_accepted(signers, glosses, shared):
    """`shared` glosses have clips of every signer, the others of one alone."""
    makers = [range(signers) if gloss < shared else [gloss % signers] for gloss in range(glosses)]
    clips = [clip(f"{s}-{g}", f"g{g:03}", f"s{s}") for g, made_by in enumerate(makers) for s in made_by]
    if shared == glosses:  # only chance keeps them from being covered: every signer has other glosses
        clips = sparse_clips(0, signers, glosses, 6)
    with pytest.raises(UserError, match="glosses in train and test, found") as refusal:
        make_split(clips, "signer", 0, SHARES, coverage=1.0)
    named = float(re.search(r"set split.coverage=([0-9.]+) or less", str(refusal.value))[1])  # pyright: ignore
    assert covered(clips, make_split(clips, "signer", 0, SHARES, coverage=named).parts) >= named


def test_few_glosses_in_both_train_and_test_are_warned_of():
    clips = [clip(f"{g}-{n}", f"g{g}", f"s{g}") for g in range(20) for n in range(4)]
    clips += [clip(f"x{s}", "shared", f"s{s}") for s in range(20)]
    split = make_split(clips, "signer", 0, SHARES)
    assert "\nWARNING: only 1 of 21 glosses have clips in both train and test" in describe(clips, split)
    assert "WARNING" not in describe(clips, make_split(clips, "stratified", 0, SHARES))


def test_stratified_lists_glosses_whose_clips_are_one_recording():
    clips = [clip(f"a{n}", "a", content="same") for n in range(4)] + [clip(f"b{n}", f"b{n % 2}") for n in range(20)]
    assert make_split(clips, "stratified", 0, SHARES).uncoverable == ["a"]


def test_the_full_index_divides_by_every_rule(shared):
    from slr.prepare.wlasl.index import read_index, select

    index = read_index(shared / "wlasl" / "index" / "WLASL_v0.3.json")
    clips = [
        replace(clip(i.id, i.gloss, i.signer), official_part=i.part, segment=i.segment) for i in select(index, "core")
    ]
    segments = defaultdict(set)
    for i in select(index, "core"):
        segments[i.address, i.first, i.last].add(i.id)
    for rule in ("stratified", "signer"):
        split = make_split(clips, rule, 0, SHARES, coverage=0.9)
        assert all(len({split.parts[name] for name in group}) == 1 for group in segments.values())
        assert covered(clips, split.parts) >= 0.9
    official = make_split(clips, "official", 0, SHARES, drop_leaks=True)
    for group in segments.values():
        assert len({official.parts[name] for name in group if name in official.parts}) <= 1
    assert [sum(c.official_part == part for c in clips) for part in PARTS] == [2_752, 700, 538]
    assert sum(part == "test" for part in official.parts.values()) == 538


@pytest.mark.parametrize("signers", [3, 4, 5])
def test_few_signers_leave_no_part_empty(signers):
    clips = [clip(f"{s}-{n}", f"g{n % 2}", f"s{s}") for s in range(signers) for n in range(10)]
    split = make_split(clips, "signer", 0, SHARES)
    assert set(split.parts.values()) == set(PARTS)


def test_the_seed_matters_among_signers_of_different_sizes():
    clips = [clip(f"{s}-{n}", f"g{n % 3}", f"s{s}") for s in range(20) for n in range(5 + 3 * s)]
    splits = [make_split(clips, "signer", seed, SHARES) for seed in range(8)]
    assert len({split.hash for split in splits}) == 8
    assert len({tuple(sorted(split.parts.items())) for split in splits}) >= 6
    largest_tests = {split.parts["19-0"] for split in splits}
    assert len(largest_tests) > 1
    for split in splits:
        counts = Counter(split.parts.values())
        assert all(abs(counts[part] / len(clips) - SHARES[part]) < 0.05 for part in PARTS)


@pytest.mark.parametrize("rule", ["stratified", "signer", "official"])
def test_a_limit_takes_so_many_of_each_gloss_and_nests(rule, tmp_path):
    clips = random_clips(3, count=400)
    parts = np.random.default_rng(3).choice(["train", "val", "test"], len(clips), p=[0.7, 0.15, 0.15]).tolist()
    clips = [replace(c, official_part=part) for c, part in zip(clips, parts, strict=True)]

    def divided(limit, seed=0, order=1):
        return make_split(clips[::order], rule, seed, SHARES, drop_leaks=True, limit_train=limit)

    whole = divided(None)
    assert (whole.left_out, whole.limit_train) == ([], None)
    glosses = {c.id: c.gloss for c in clips}
    all_of = Counter(glosses[name] for name, part in whole.parts.items() if part == "train")
    kept_before: set[str] = set()
    hashes = {whole.hash}
    for limit in (1, 2, 4, 8):
        split = divided(limit)
        kept = {name for name, part in split.parts.items() if part == "train"}
        assert Counter(glosses[name] for name in kept) == {gloss: min(n, limit) for gloss, n in all_of.items()}
        assert kept_before < kept
        assert split.parts.keys() | set(split.left_out) == whole.parts.keys()
        assert not split.parts.keys() & set(split.left_out)
        for part in ("val", "test"):
            assert split.select(clips, part) == whole.select(clips, part)
        assert split == divided(limit, order=-1)
        hashes.add(split.hash)
        kept_before = kept
        assert f"at most {limit} training clips per gloss, {len(split.left_out)} left out" in describe(clips, split)
        write_split(tmp_path / "split.json", split)
        assert read_split(tmp_path / "split.json", clips) == split
    assert len(hashes) == 5
    assert max(all_of.values()) > 8
    if rule == "official":  # the parts stay, so another seed can only draw other clips
        assert divided(1, seed=1).left_out != divided(1).left_out
    assert divided(1000).parts == whole.parts


def test_a_limit_says_nothing_of_leaks():
    """A leaking clip that the limit leaves out is not one that was dropped as a leak."""
    clips = [replace(clip(f"a{n}", "a", content="twin"), official_part="train") for n in range(3)]
    clips += [replace(clip(f"b{n}", "b"), official_part="train") for n in range(3)]
    clips += [
        replace(clip("t", "a", content="twin"), official_part="test"),
        replace(clip("v", "b"), official_part="val"),
    ]
    split = make_split(clips, "official", 0, SHARES, limit_train=1)
    assert "3 train or val clips show the recording of a val or test clip: kept" in describe(clips, split)
