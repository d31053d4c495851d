import itertools
import json
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from slr.commands import audit as command
from slr.core.errors import UserError
from slr.data.audit import FILES, NEAR, RECORDING, SEGMENTS, SIGNER, SIGNER_GLOSS, Entry, audit, describe_audit
from slr.data.manifest import read_manifest
from slr.data.split import make_split, write_split

PARTS = ("train", "val", "test", None)


def random_entries(seed: int, count: int = 80) -> tuple[list[Entry], dict]:
    rng = np.random.default_rng(seed)
    entries = []
    for number in range(count):
        signer = None if rng.random() < 0.1 else f"s{rng.integers(12)}"
        part = PARTS[rng.choice(4, p=[0.6, 0.15, 0.2, 0.05])]
        entries.append(Entry(f"c{number}", f"g{rng.integers(10)}", signer, part))
    # Disjoint groups, so that a pair of one group is a pair of one component.
    order = [f"c{number}" for number in rng.permutation(count)]
    files, segments, near = order[:12], order[12:24], order[24:34]
    copies = {
        FILES: [files[:3], files[3:5], files[5:9], files[9:12]],
        SEGMENTS: [segments[:4], segments[4:6], segments[6:12]],
        NEAR: list(zip(near[::2], near[1::2], strict=True)),
    }
    return entries, copies


def by_pairs(entries: list[Entry], related) -> dict[str, int]:
    """The numbers of `Shared` that are about single clips, by looking at every pair."""
    sets = defaultdict(set)
    for one, other in itertools.permutations(entries, 2):
        if related(one, other):
            sets["clips"].add(one.id)
            sets[f"{one.part}_in_{other.part}"].add(one.id)
            if one.gloss != other.gloss:
                sets[f"{one.part}_in_{other.part}_other_gloss"].add(one.id)
    names = ("clips", "test_in_train", "test_in_train_other_gloss", "test_in_val", "val_in_train")
    return {name: len(sets[name]) for name in names}


@pytest.mark.parametrize("seed", range(12))
def test_numbers_equal_those_of_every_pair(seed):
    entries, copies = random_entries(seed)
    group_of = {name: (kind, n) for kind, groups in copies.items() for n, group in enumerate(groups) for name in group}

    def in_one(*kinds):
        return lambda a, b: a.id in group_of and group_of[a.id] == group_of.get(b.id) and group_of[a.id][0] in kinds

    relations = {
        FILES: in_one(FILES),
        SEGMENTS: in_one(SEGMENTS),
        NEAR: in_one(NEAR),
        RECORDING: in_one(FILES, SEGMENTS, NEAR),
        SIGNER: lambda a, b: a.signer is not None and a.signer == b.signer,
        SIGNER_GLOSS: lambda a, b: a.signer is not None and (a.signer, a.gloss) == (b.signer, b.gloss),
    }
    shared = audit(entries, copies)["shared"]
    assert list(shared) == list(relations)
    for kind, related in relations.items():
        expected = by_pairs(entries, related)
        assert {name: shared[kind][name] for name in expected} == expected, kind
    part, gloss = {e.id: e.part for e in entries}, {e.id: e.gloss for e in entries}
    for kind, groups in copies.items():
        assert shared[kind]["groups"] == len(groups)
        assert shared[kind]["across_glosses"] == sum(len({gloss[name] for name in group}) > 1 for group in groups)
        assert shared[kind]["across_parts"] == sum(len({part[name] for name in group} - {None}) > 1 for group in groups)
    assert shared[SIGNER]["groups"] == sum(n > 1 for n in Counter(e.signer for e in entries if e.signer).values())


@pytest.mark.parametrize("seed", range(12))
def test_conflicts_are_the_certain_copies_of_another_gloss(seed):
    entries, copies = random_entries(seed)
    found = audit(entries, copies)["label_conflicts"]
    gloss = {e.id: e.gloss for e in entries}
    groups = [group for kind in (FILES, SEGMENTS) for group in copies[kind] if len({gloss[name] for name in group}) > 1]
    assert {frozenset(group) for group in found["groups"]} == {frozenset(group) for group in groups}
    assert all(group[name] == gloss[name] for group in found["groups"] for name in group)
    for one, other in itertools.permutations({e.gloss for e in entries}, 2):
        times = sum({one, other} <= {gloss[name] for name in group} for group in groups)
        assert found["glosses"].get(one, {}).get(other, 0) == times


def test_what_is_not_known_is_said_and_not_counted():
    found = audit(random_entries(0)[0], {FILES: None, NEAR: None})
    assert found["shared"][FILES] is None
    assert found["shared"][RECORDING]["groups"] == 0
    assert "not known" in describe_audit(found)
    assert json.loads(json.dumps(found)) == found


@pytest.fixture
def index(shared) -> Path:
    return shared / "wlasl" / "index" / "WLASL_v0.3.json"


def test_the_real_index_has_its_known_leaks(index):
    found = command.audit_index(index, "2000")
    segments = found["shared"][SEGMENTS]
    assert (segments["groups"], segments["clips"]) == (897, 1_978)
    assert (segments["across_glosses"], segments["across_parts"]) == (804, 442)
    assert (segments["test_in_train"], segments["test_in_train_other_gloss"]) == (157, 142)
    assert found["shared"][SIGNER]["test_in_train"] == 2_877
    assert found["shared"][SIGNER_GLOSS]["test_in_train"] == 342
    assert found["parts"]["test"]["lacks"] == ["caterpillar"]
    # Counted here once more, from the file itself.
    glosses = defaultdict(list)
    for entry in json.loads(index.read_text()):
        for row in entry["instances"]:
            glosses[row["url"], row["frame_start"], row["frame_end"]].append(entry["gloss"])
    conflicts = [set(group) for group in glosses.values() if len(set(group)) > 1]
    assert Counter(map(frozenset, conflicts)) == Counter(
        frozenset(group.values()) for group in found["label_conflicts"]["groups"]
    )
    for known in ({"01377": "afraid", "21328": "fear"}, {"31559": "keyboard", "60308": "type"}):
        assert any(known.items() <= group.items() for group in found["label_conflicts"]["groups"])


def test_the_core_glossary_has_seventeen_confounded_pairs(index):
    glosses = command.audit_index(index, "core")["label_conflicts"]["glosses"]
    pairs = {frozenset((gloss, other)) for gloss, others in glosses.items() for other in others}
    assert len(pairs) == 17
    assert {frozenset(pair) for pair in (("now", "today"), ("them", "they"), ("must", "should"))} <= pairs


def run(monkeypatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["audit", *words])
    command.main()


@pytest.mark.slow
def test_the_command_audits_a_prepared_data_set_in_any_split(real_clips, tmp_path, monkeypatch, capsys):
    clips = read_manifest(real_clips / "manifest.jsonl")
    write_split(tmp_path / "split.json", make_split(clips, "stratified", 0, {"train": 0.7, "val": 0.15, "test": 0.15}))
    run(monkeypatch, f"data={real_clips}", f"split={tmp_path / 'split.json'}", f"out={tmp_path / 'new' / 'place'}")
    printed = capsys.readouterr().out
    assert "156 clips" in printed
    found = json.loads((tmp_path / "new" / "place" / "audit.json").read_text())
    assert found["groups"][FILES] == [["17721", "17722"]]
    assert found["shared"][FILES]["across_parts"] == 0  # no rule parts them
    assert json.loads((tmp_path / "new" / "place" / "label_conflicts.json").read_text()) == {
        "groups": [],
        "glosses": {},
    }


def test_the_index_is_audited_without_writing_anything(index, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run(monkeypatch, f"index={index}", "subset=100")
    assert "2,038 clips,   100 glosses" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "one of run=, data= and index=, found none"),
        (["run=a", "data=b"], "found run and data"),
        (["data=nowhere"], "expected a manifest, found none"),
        (["index=nowhere"], "expected WLASL_v0.3.json at nowhere"),
        (["run=nowhere"], "expected the folder of a run"),
    ],
)
def test_mistakes_are_one_line(words, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        run(monkeypatch, *words)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
