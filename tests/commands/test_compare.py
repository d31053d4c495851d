import csv
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import VOCABULARY, make_run, places_of
from scipy.stats import binomtest

from slr.commands import compare
from slr.config import compose, jobs, schema
from slr.core.errors import UserError
from slr.core.files import read_json, write_json
from slr.core.run_folder import RunFolder, flat
from slr.evaluation.compare.runs import find_runs, read_run
from slr.evaluation.compare.settings import comparable, differing

ROOT = Path(__file__).resolve().parents[2]


def printed(monkeypatch, capsys, *words):
    """What the command prints."""
    monkeypatch.setattr(sys, "argv", ["slr.compare", *map(str, words)])
    compare.main()
    return capsys.readouterr().out


def grid(root, accuracies, seeds=3, clips=200, **changes):
    """Runs of `frames` -> accuracy; validation top-1 is the accuracy, cost the frames."""
    rng = np.random.default_rng(0)
    for frames, accuracy in accuracies.items():
        for seed in range(seeds):
            places = places_of(rng, accuracy + 0.01 * seed, clips)
            folder = root / f"frames-{frames}_seed-{seed}"
            make_run(folder, places, accuracy + 0.01 * seed, seconds=60.0 * frames, seed=seed, frames=frames, **changes)
    return root


def runs_of(root):
    return [read_run(folder) for folder in find_runs(root)]


def change(path, **facts):
    write_json(path, read_json(path) | facts)


def test_settings_are_ranked_by_validation_and_never_by_test(tmp_path):
    rng = np.random.default_rng(0)
    for frames, val, mrr, accuracy in ((2, 0.5, 0.9, 0.9), (4, 0.7, 0.7, 0.2), (8, 0.7, 0.8, 0.1)):
        for seed in range(3):
            make_run(tmp_path / f"{frames} {seed}", places_of(rng, accuracy, 50), val, mrr, frames=frames, seed=seed)
    (group,) = comparable(runs_of(tmp_path), ["seed"], "top1")
    assert [setting.label for setting in group.settings] == ["frames=8", "frames=4", "frames=2"]
    (group,) = comparable(runs_of(tmp_path), ["seed"], "mrr")
    assert [setting.label for setting in group.settings] == ["frames=2", "frames=8", "frames=4"]


def test_mean_deviation_and_range_over_seeds(tmp_path):
    rng = np.random.default_rng(1)
    places = [places_of(rng, accuracy, 80) for accuracy in (0.4, 0.5, 0.7)]
    for seed, ranked in enumerate(places):
        make_run(tmp_path / str(seed), ranked, seed=seed)
    (group,) = comparable(runs_of(tmp_path), ["seed"], "top1")
    (setting,) = group.settings
    for metric, scores in (
        ("top1", [float(np.mean(p == 1)) for p in places]),
        ("top5", [float(np.mean(p <= 5)) for p in places]),
        ("mrr", [float(np.mean(1 / p)) for p in places]),
    ):
        expected = (statistics.mean(scores), statistics.stdev(scores), min(scores), max(scores))
        assert setting.spread("test", metric) == pytest.approx(expected)
        assert setting.scores(metric).mean(axis=1) == pytest.approx(scores)


def test_only_seed_is_left_out_of_a_setting(tmp_path, monkeypatch, capsys):
    places = np.ones(10, dtype=int)
    for seed in (0, 1):
        for data_seed in (0, 1):
            make_run(tmp_path / f"{seed}{data_seed}", places, seed=seed, dataset__seed=data_seed, outputs=f"{seed}")
    runs = runs_of(tmp_path)
    assert differing(runs) == ["seed", "dataset.seed"]
    (group,) = comparable(runs, ["seed"], "top1")
    assert {setting.label: list(setting.seeds) for setting in group.settings} == {
        "dataset.seed=0": ["0", "1"],
        "dataset.seed=1": ["0", "1"],
    }
    (group,) = comparable(runs, ["seed", "dataset.seed"], "top1")
    assert [len(setting.seeds) for setting in group.settings] == [4]
    assert "values of seed,dataset.seed" in printed(monkeypatch, capsys, tmp_path, "by=seed,dataset.seed")
    with pytest.raises(UserError, match=r"by=sed: expected a setting of the runs.*did you mean seed\?"):
        printed(monkeypatch, capsys, tmp_path, "by=sed")


def test_runs_that_began_with_an_earlier_one_are_a_setting_of_their_own(tmp_path):
    for seed in (0, 1):
        for init in (None, "outputs/earlier"):
            make_run(tmp_path / f"{seed} {bool(init)}", np.ones(10, dtype=int), seed=seed, init=init)
    (group,) = comparable(runs_of(tmp_path), ["seed"], "top1")
    assert [len(setting.seeds) for setting in group.settings] == [2, 2]
    assert {setting.label for setting in group.settings} == {"init=null", "init=outputs/earlier"}


def test_a_real_difference_is_named_with_its_winner_and_no_difference_is_not(tmp_path, monkeypatch, capsys):
    grid(tmp_path, {2: 0.3, 4: 0.79, 8: 0.8})
    out = printed(monkeypatch, capsys, tmp_path)
    assert "the validation part chose frames=8; on the test part:" in out
    lines = {line.partition(":")[0]: line for line in out.splitlines() if " against " in line}
    assert lines["frames=8 against frames=2"].endswith("frames=8 won, the difference is real")
    assert out.count("corrected for 2 (Holm): ") == 2
    assert lines["frames=8 against frames=4"].endswith("no real difference shown")


def test_validation_may_choose_what_the_test_part_refutes(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    for frames, val, accuracy in ((4, 0.7, 0.3), (8, 0.6, 0.8)):
        for seed in range(4):
            make_run(tmp_path / f"{frames} {seed}", places_of(rng, accuracy, 200), val, frames=frames, seed=seed)
    out = printed(monkeypatch, capsys, tmp_path)
    assert "frames=8 won, the difference is real, though the validation part ranks it lower" in out


def test_fewer_than_three_seeds_are_not_tested(tmp_path, monkeypatch, capsys):
    grid(tmp_path, {4: 0.2, 8: 0.9}, seeds=2)
    out = printed(monkeypatch, capsys, tmp_path)
    assert "frames=8 against frames=4: not tested: expected 3 seeds or more of each, found 2 and 2" in out
    assert "real" not in out


@pytest.mark.parametrize("accuracy", [0.3, 0.85])
def test_one_run_each_says_something_of_the_networks_alone(tmp_path, monkeypatch, capsys, accuracy):
    rng = np.random.default_rng(3)
    one, other = places_of(rng, 0.9, 160), places_of(rng, accuracy, 160)
    make_run(tmp_path / "a", one, val=0.9, frames=8)
    make_run(tmp_path / "b", other, val=0.5, frames=4, seed=7)
    out = printed(monkeypatch, capsys, tmp_path)
    ahead, behind = int(((one == 1) & (other != 1)).sum()), int(((one != 1) & (other == 1)).sum())
    p = binomtest(ahead, ahead + behind).pvalue
    verdict = "these two networks differ" if p < 0.05 else "no difference of these two networks shown"
    assert (
        f"frames=8 against frames=4: {verdict}\n"
        f"    better on {ahead}, worse on {behind} of the test clips, exact McNemar test of top-1, p = {p:.2g}\n" in out
    )
    assert "one run each says nothing of the settings; train 3 seeds or more of each" in out
    assert "real" not in out


def test_what_stands_on_other_ground_is_not_ranked_together(tmp_path, monkeypatch, capsys):
    grid(tmp_path / "a", {4: 0.5, 8: 0.6})
    make_run(tmp_path / "data", np.ones(200, dtype=int), val=0.99, data="e" * 64)
    make_run(tmp_path / "test", np.ones(201, dtype=int), val=0.99)
    glosses = make_run(tmp_path / "glosses", np.ones(200, dtype=int), val=0.99)
    write_json(glosses / "vocabulary.json", [*VOCABULARY, "more"])
    chosen = make_run(tmp_path / "val", np.ones(200, dtype=int), val=0.99)
    parts = read_json(chosen / "split.json")["parts"]
    change(chosen / "split.json", parts={clip: part for clip, part in parts.items() if clip != "clip v3"})
    out = printed(monkeypatch, capsys, tmp_path)
    lines = out.splitlines()
    apart = {line.rpartition(": ")[2] for line in lines if line.startswith("groups 1 and ")}
    assert len(apart) == 4
    assert any(reason == "hash of the data dddddddd and eeeeeeee" for reason in apart)
    for words in ("the test part's clips", "the vocabulary", "the validation part's clips"):
        assert any(reason.startswith(f"hash of {words} ") for reason in apart)
    assert sum(line.startswith("groups ") for line in lines) == math.comb(5, 2)
    assert any(line.startswith("group 1: 6 runs done, 200 test clips") for line in lines)
    assert "group 1, comparable with each other: a/frames-8_seed-0, " in out
    assert "the validation part chose frames=8" in out  # among its own group, not those of 0.99


def test_other_code_and_versions_are_told(tmp_path, monkeypatch, capsys):
    places = np.ones(20, dtype=int)
    make_run(tmp_path / "a", places)
    make_run(tmp_path / "b", places, seed=1, code="1" * 64, torch="2.14.1")
    out = printed(monkeypatch, capsys, tmp_path)
    assert "2 runs done" in out
    assert "note: made with different versions of slr's code (hashes): cccccccc (1 run), 11111111 (1 run)" in out
    assert "note: made with different versions of torch: 2.15.0 (1 run), 2.14.1 (1 run)" in out


def test_runs_that_are_not_done_are_listed_and_not_ranked(tmp_path, monkeypatch, capsys):
    grid(tmp_path, {8: 0.6})
    for status, facts in (("failed", {"error": "ValueError: no"}), ("stopped", {}), ("pruned", {}), ("running", {})):
        run = make_run(tmp_path / status, np.ones(200, dtype=int), val=0.99, frames=64)
        content = {key: value for key, value in read_json(run / "result.json").items() if key not in ("val", "test")}
        write_json(run / "result.json", content | facts | {"status": status})
    out = printed(monkeypatch, capsys, tmp_path)
    _, _, below = out.partition("not ranked, not done:\n")
    assert sorted(line.split()[0] for line in below.splitlines()[1:5]) == ["failed", "killed", "pruned", "stopped"]
    assert "ValueError: no" in below
    assert "3 runs done" in out
    rows = csv.DictReader((tmp_path / "comparison.csv").read_text(encoding="utf-8").splitlines())
    assert sorted(row["status"] for row in rows) == ["done"] * 3 + ["failed", "killed", "pruned", "stopped"]


def test_nothing_done_is_no_error(tmp_path, monkeypatch, capsys):
    run = make_run(tmp_path / "a", np.ones(20, dtype=int))
    change(run / "result.json", status="stopped")
    out = printed(monkeypatch, capsys, tmp_path)
    assert "not ranked, not done:" in out
    assert (tmp_path / "comparison.csv").is_file()
    assert not (tmp_path / "comparison.png").exists()


def test_a_broken_run_is_told_and_left_out(tmp_path, monkeypatch, capsys):
    grid(tmp_path, {8: 0.6})
    for name, file, text in (
        ("cut", "result.json", "{"),
        ("list", "config.json", "[]"),
        ("empty", "result.json", "{}"),
        ("no vocabulary", "vocabulary.json", "{}"),
        ("no split", "split.json", "7"),
        ("not finite", "result.json", '{"status": "done", "seconds": NaN}'),
    ):
        run = make_run(tmp_path / name, np.ones(20, dtype=int))
        (run / file).write_text(text, encoding="utf-8")
    begun = tmp_path / "begun"
    write_json(begun / "result.json", {"status": "running"})
    out = printed(monkeypatch, capsys, tmp_path)
    broken = [line for line in out.splitlines() if line.startswith("skipped: ")]
    assert len(broken) == 7
    assert any(f"{begun / 'config.json'}: expected a file of a run" in line for line in broken)
    assert "3 runs done" in out


def test_rankings_of_another_part_are_not_taken_for_the_tests(tmp_path, monkeypatch, capsys):
    grid(tmp_path, {4: 0.2, 8: 0.9})
    path = tmp_path / "frames-8_seed-0" / "evaluation" / "ranks.json"
    content = read_json(path)
    write_json(path, content | {"ranks": dict(list(content["ranks"].items())[:9])})
    out = printed(monkeypatch, capsys, tmp_path)
    assert "not tested: expected 3 seeds or more of each, found 2 and 3 with readable rankings" in out
    assert "ranks 9 clips of part test, not the run's 200 test clips; slr evaluate run=" in out
    write_json(path, content | {"checkpoint": "last"})
    assert "ranks with checkpoint last, the result with best" in printed(monkeypatch, capsys, tmp_path)
    path.write_text("[]", encoding="utf-8")
    assert "holds no rankings that can be read" in printed(monkeypatch, capsys, tmp_path)


def test_a_seed_that_ran_twice_counts_once(tmp_path, monkeypatch, capsys):
    rng = np.random.default_rng(0)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        make_run(tmp_path / name, places_of(rng, 0.5, 60), val={"a": 0.2, "b": 0.4, "c": 0.6}[name], seed=seed)
    (group,) = comparable(runs_of(tmp_path), ["seed"], "top1")
    assert group.settings[0].spread("val", "top1").mean == pytest.approx((0.3 + 0.6) / 2)
    assert group.settings[0].scores("top1").shape == (2, 60)
    assert "has 2 runs of seed=0; they count as one, with their mean" in printed(monkeypatch, capsys, tmp_path)


def test_runs_evaluated_before_ranks_were_written_are_tested_alike(tmp_path, monkeypatch, capsys):
    grid(tmp_path, {4: 0.2, 8: 0.9})
    new = printed(monkeypatch, capsys, tmp_path)
    for path in tmp_path.glob("*/evaluation/ranks.json"):
        path.unlink()
    assert printed(monkeypatch, capsys, tmp_path) == new
    path = tmp_path / "frames-8_seed-0" / "evaluation" / "evaluation_results.json"
    content = read_json(path)
    content["predictions"][0]["gloss"] = "coffee"
    write_json(path, content)
    assert "holds no rankings that can be read (ValueError(\"'coffee' is not in list\"))" in printed(
        monkeypatch, capsys, tmp_path
    )
    path.unlink()
    assert "holds no rankings that can be read (FileNotFoundError" in printed(monkeypatch, capsys, tmp_path)


def test_tables_fit_a_terminal_of_100_columns(tmp_path, monkeypatch, capsys):
    grid(tmp_path, {4: 0.2, 8: 0.9}, lora__r=16)
    grid(tmp_path / "more", {4: 0.2, 8: 0.9}, lora__r=8)
    failed = make_run(tmp_path / "failed", np.ones(200, dtype=int), frames=64)
    change(failed / "result.json", status="failed", error="ValueError: no")
    out = printed(monkeypatch, capsys, tmp_path)
    assert max(map(len, out.partition("\n\nwritten: ")[0].splitlines())) <= 100
    firsts = [line.split()[0] for line in out.splitlines()[1:] if line]
    assert [firsts.count(str(number)) for number in (1, 4, 5, 12)] == [4, 4, 2, 2], (
        "12 runs, 4 settings, two blocks each"
    )


def test_it_says_when_the_reciprocal_rank_decided(tmp_path, monkeypatch, capsys):
    for frames, val, mrr in ((2, 0.0, 0.1), (4, 0.0, 0.3), (8, 0.0, 0.2)):
        make_run(tmp_path / str(frames), np.ones(50, dtype=int), val, mrr, frames=frames)
    out = printed(monkeypatch, capsys, tmp_path)
    assert "the validation part chose frames=4" in out
    assert (
        "note: settings 1, 2, 3 have the same validation top-1, 0.000; their mean reciprocal rank (mrr) decided" in out
    )
    change(tmp_path / "2" / "result.json", val={"top1": 0.1, "top5": 0.9, "mrr": 0.1})
    assert "note: settings 2, 3 have the same validation top-1, 0.000" in printed(monkeypatch, capsys, tmp_path)
    assert "decided" not in printed(monkeypatch, capsys, tmp_path, "metric=mrr")


def test_rows_come_back_from_the_csv(tmp_path, monkeypatch, capsys):
    grid(tmp_path, {4: 0.5, 8: 0.7}, model__prompt='Which "sign",\nplease?')
    make_run(tmp_path / "other", np.ones(200, dtype=int), frames=8, lora__targets=["q"])
    printed(monkeypatch, capsys, tmp_path)
    with (tmp_path / "comparison.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["folder"]: row for row in csv.DictReader(file)}
    assert len(rows) == 7
    for folder, row in rows.items():
        result, config = read_json(Path(folder) / "result.json"), flat(read_json(Path(folder) / "config.json"))
        for key in ("seed", "frames", "lora.targets"):
            assert json.loads(row[key]) == config[key]
        prompt = row["model.prompt"]
        assert (json.loads(prompt) if prompt.startswith('"') else prompt) == config["model.prompt"]
        for metric in ("top1", "top5", "mrr"):
            assert float(row[f"test_{metric}"]) == result["test"][metric]
            assert float(row[f"val_{metric}"]) == result["val"][metric]
            interval = [float(row[f"test_{metric}_low"]), float(row[f"test_{metric}_high"])]
            assert interval == result["test"][f"{metric}_interval"]
        assert float(row["val_top1_low"]) == result["val"]["top1_low"]
        assert row["val_mrr_low"] == ""
        assert float(row["seconds"]) == result["seconds"]
        assert int(row["memory"]) == result["memory"]["measured"]
        assert (row["status"], row["group"]) == ("done", "1")


def test_the_picture_opens_and_shows_something(tmp_path, monkeypatch, capsys):
    grid(tmp_path, {1: 0.3, 4: 0.5, 32: 0.7}, model__prompt="$x$ 手話")
    make_run(tmp_path / "b", np.ones(200, dtype=int), data="e" * 64, frames=2, seconds=0.0)
    for part in ("test", "val"):
        printed(monkeypatch, capsys, tmp_path, f"part={part}", f"picture={tmp_path / part}.png")
        with Image.open(tmp_path / f"{part}.png") as picture:
            assert picture.format == "PNG"
            pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
        assert (pixels == 255).all(axis=1).mean() > 0.5
        for colour in ((0, 114, 178), (213, 94, 0), (0, 158, 115)):  # a setting each
            assert (pixels == colour).all(axis=1).sum() > 50
    assert (tmp_path / "test.png").read_bytes() != (tmp_path / "val.png").read_bytes()
    assert not list(tmp_path.glob(".*part"))


@pytest.mark.parametrize("name", ["a b, c", "by=seed", "frames=8,lora.r=16", "äöü 'q\" $x", "-x"])
def test_any_path_works_as_typed(tmp_path, monkeypatch, capsys, name):
    grid(tmp_path / name, {4: 0.5})
    monkeypatch.chdir(tmp_path)
    out = printed(monkeypatch, capsys, name, f"csv={name}/rows, = ü.csv")
    assert "3 runs done" in out
    assert (tmp_path / name / "rows, = ü.csv").is_file()
    assert (tmp_path / name / "comparison.png").is_file()


def test_runs_are_taken_once_and_files_never_written_into_a_run(tmp_path, monkeypatch, capsys):
    grid(tmp_path, {4: 0.5})
    shutil.copytree(tmp_path / "frames-4_seed-0", tmp_path / ".hidden" / "x")
    first = tmp_path / "frames-4_seed-0"
    before = sorted(first.rglob("*"))
    os.symlink(tmp_path, tmp_path / "again", target_is_directory=True)
    out = printed(monkeypatch, capsys, first, tmp_path, tmp_path / "again")
    assert "3 runs done" in out
    assert sorted(first.rglob("*")) == before
    assert f"written: {tmp_path / 'comparison.csv'}" in out
    assert (tmp_path / "comparison.png").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected the folder of a run, or of runs, found none; usage: slr compare FOLDER"),
        (["nowhere"], "nowhere: expected the folder of a run"),
        (["no/where=1"], "no/where=1: expected the folder of a run"),
        (["empty"], "empty: expected runs, found no result.json"),
        (["full", "metrik=top1"], "unknown key 'metrik'; did you mean metric?"),
        (["full", "metric=loss"], "metric=loss: expected one of top1, top5, mrr"),
        (["full", "part=train"], "part=train: expected one of val, test"),
        (["broken"], "found none that can be read; skipped: "),
        (["full", "csv=full"], "expected a file that can be written"),
        (["full", "picture=full/a/result.json/x.png"], "expected a file that can be written"),
    ],
)
def test_mistakes_cost_one_line(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    make_run(Path("full/a"), np.ones(20, dtype=int))
    (make_run(Path("broken/a"), np.ones(20, dtype=int)) / "result.json").write_text("{", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["slr.compare", *words])
    with pytest.raises(UserError) as refused:
        compare.main()
    assert message in str(refused.value)


def test_the_command_knows_no_torch_and_ends_as_a_shell_expects(tmp_path):
    grid(tmp_path / "runs", {4: 0.3, 8: 0.8})
    program = (
        "import runpy, sys; sys.argv[1:] = sys.argv[1:]; runpy.run_module('slr.compare', run_name='__main__'); "
        "print(sorted({'torch', 'hydra', 'lightning', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "runs")], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "[]"

    def run(*words):
        return subprocess.run([sys.executable, "-m", "slr.compare", *words], cwd=ROOT, capture_output=True, text=True)

    asked, refused = run("--help"), run(str(tmp_path / "nowhere"))
    assert (asked.returncode, asked.stdout.split()[:3]) == (0, ["usage:", "slr", "compare"])
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ")
    assert len(refused.stderr.splitlines()) == 1


def test_a_run_without_training_has_an_interval_and_no_memory(tmp_path):
    run = make_run(tmp_path / "a", np.ones(20, dtype=int), lora__r=0)
    result = read_json(run / "result.json")
    del result["memory"]
    result["val"] = result["test"]
    write_json(RunFolder(run).result, result)
    read = read_run(run)
    assert read.memory is None
    assert list(read.val["mrr"][1:]) == result["test"]["mrr_interval"]


def test_runs_from_before_a_key_have_the_settings_of_todays(tmp_path):
    compose.register()
    new = schema.to_plain(jobs.configurations(["experiment=demo"])[0])
    old = {key: value for key, value in new.items() if key not in ("init", "limit_train")}
    for name, config in (("new", new), ("old", old)):
        write_json(tmp_path / name / "config.json", config)
        write_json(tmp_path / name / "result.json", {"status": "failed"})
    assert read_run(tmp_path / "old").settings == read_run(tmp_path / "new").settings
