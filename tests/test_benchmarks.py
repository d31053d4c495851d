"""The benchmarks run, compare like with like, and tell what they say they tell."""

import doctest
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from entry import refused

ROOT = Path(__file__).resolve().parent.parent
KEYS = {"case", "ours", "plain", "floor", "unit", "ratio"}


@pytest.fixture
def measure(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import measure

    return measure


def rows(name, folder, *words):
    """What `benchmarks/<name>.py --quick --json` writes, and what it prints."""
    target = folder / f"{name}.json"
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, f"benchmarks/{name}.py", "--quick", "--json", str(target), *words]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-4000:]
    content = json.loads(target.read_text(encoding="utf-8"))
    assert content["machine"]["matrix_gflops"] > 0
    assert all(set(row) == KEYS for row in content["rows"])
    [*_, last] = result.stdout.splitlines()
    assert last.startswith(content["rows"][-1]["case"])
    return {(row["case"], row["unit"]): row for row in content["rows"]}


@pytest.mark.slow
def test_a_step_and_the_plain_recipes(tmp_path):
    found = rows("step", tmp_path, "rounds=1", "--cpu-time")
    same = found["the loss of one clip", "nats"]
    assert same["ours"] == pytest.approx(same["plain"], abs=1e-4)
    for checkpointing in ("no", "with"):
        for cached in ("", ", features cached"):
            row = found[f"8 frames, {checkpointing} checkpointing{cached}", "clips/s"]
            assert row["ratio"] == pytest.approx(row["ours"] / row["plain"])
            assert 0 < row["ours"] < row["floor"]
    assert any(unit == "MiB more" and row["ours"] > 0 for (_, unit), row in found.items())


@pytest.mark.slow
def test_ranking_and_beams(tmp_path):
    found = rows("rank", tmp_path, "rounds=3", "--cpu-time")
    row = found["1 clip: prefill and trie, beam-5 of 4 tokens", "s"]
    assert row["ratio"] == pytest.approx(row["plain"] / row["ours"])
    assert 0 < row["floor"] < found["1 clip: prefill alone", "s"]["ours"] < row["ours"]
    assert 0 <= found["beams that are no gloss, untrained", "of 5"]["plain"] <= 5


@pytest.mark.slow
def test_going_on_starts_as_soon_as_beginning_does(tmp_path):
    found = rows("saving", tmp_path, "rounds=1")
    start = found["command to first step: going on, beginning", "processor s"]
    assert start["ours"] < 1.2 * start["plain"]
    shares = [row["ours"] for (case, unit), row in found.items() if unit == "%" and "every 10 minutes" in case]
    assert len(shares) == 1
    assert 0 < shares[0] < 2


@pytest.mark.usefixtures("measure")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["frame=8"], "did you mean frames?"),
        (["--json"], "expected a path"),
        (["--json", "nowhere/a.json"], "make the folder"),
        (["model=3b"], "expected one of tiny, 2b"),
        (["model=2b"], "config=FOLDER"),
    ],
)
def test_mistakes_cost_one_line(words, said):
    assert said in refused("benchmarks/rank.py", *words)


def test_no_benchmark_imports_torch_before_its_words_are_read():
    program = """
import runpy, sys
sys.path.insert(0, "benchmarks")
for name in sys.argv[1:]:
    for word, code in (("zzz=1", 2), ("--help", 0)):
        sys.argv = [name, word]
        try:
            runpy.run_path(f"benchmarks/{name}.py", run_name="__main__")
        except SystemExit as end:
            assert end.code == code, (name, word, end.code)
    assert "torch" not in sys.modules, name
"""
    names = [path.stem for path in (ROOT / "benchmarks").glob("*.py") if "explained(" in path.read_text()]
    names.remove("options")
    assert len(names) == 8
    done = subprocess.run([sys.executable, "-c", program, *names], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (0, 8), done.stderr


def test_examples_in_its_docstrings(measure):
    assert doctest.testmod(measure) == (0, 3)


def test_ratios_say_how_many_times_better(measure):
    assert measure.Row("", 2.0, 6.0, None, "s").ratio == 3
    assert measure.Row("", 6.0, 2.0, None, "clips/s", better="more").ratio == 3
    assert measure.Row("", 6.0, 2.0, None, "exponent", better="neither").ratio is None
    assert measure.Row("", None, 2.0, None, "s").ratio is None


def test_growth_is_the_exponent_of_the_larger_half(measure):
    sizes = [1, 2, 4, 8, 16, 32]
    assert measure.growth(sizes, [3 * size**1.5 for size in sizes]) == pytest.approx(1.5)
    assert measure.growth(sizes, [7, 7, 7, *(8.0 * size for size in sizes[3:])]) == pytest.approx(1)
    assert measure.growth(sizes, [None] * 4 + [1.0, 2.0]) is None


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps a high-water mark that can be put back")
@pytest.mark.parametrize("mebibytes", [32, 256])
def test_peak_memory_counts_what_was_freed_again(measure, mebibytes):
    cpu = torch.device("cpu")
    torch.ones(2**18).sum()  # its code is read into memory at the first call, which would count
    cost = measure.cost(lambda: torch.ones(mebibytes * 2**18).sum(), cpu, calls=2)
    assert cost.memory / measure.MIB == pytest.approx(mebibytes, rel=0.1, abs=4)


def test_operations_of_a_product(measure):
    one, other = torch.ones(20, 30), torch.ones(30, 50)
    assert measure.operations(lambda: one @ other) == 2 * 20 * 30 * 50


def test_in_turns_each_has_its_turn_in_every_round(measure):
    order = []

    def contestant(name):
        def run():
            order.append(name)
            return measure.Cost(float(len(order)), None)

        return run

    found = measure.in_turns({"a": contestant("a"), "b": contestant("b")}, rounds=3)
    assert order == ["a", "b"] * 4
    assert found["a"].seconds == 5  # the median of 3, 5 and 7: the first round does not count
    assert found["b"].memory is None


def test_what_does_not_fit_is_left_empty(measure):
    def too_large():
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    assert measure.in_turns({"a": too_large}, rounds=2)["a"] == measure.Cost(None, None)


@pytest.mark.parametrize(("count", "nodes"), [(10, 13), (100, 118), (300, 352), (1000, 1214), (2000, 2430)])
def test_invented_vocabularies_have_wlasls_shape(measure, count, nodes):
    from rank import invented

    from slr.models.trie import build_trie

    trie = build_trie(invented(count, 150_000, 150_001))
    assert len(trie.path) == count
    assert len(trie.token) == pytest.approx(nodes, rel=0.03)
    few = build_trie(invented(count, 729, 730))
    assert len(few.path) == count
    assert few.token.max() < 729
    assert math.isclose(len(few.token), nodes, rel_tol=0.2)


def test_the_shapes_are_those_of_wlasl(measure, shared):
    from rank import SPELLED

    from slr.models.processor import load_inputs

    inputs = load_inputs(str(shared / "internvl3_5_processor"), None)
    index = json.loads((shared / "wlasl" / "index" / "WLASL_v0.3.json").read_text(encoding="utf-8"))
    for count, (lengths, firsts) in SPELLED.items():
        spelled = [inputs.answer_ids(entry["gloss"])[:-1] for entry in index[:count]]
        assert tuple(sum(len(tokens) == n for tokens in spelled) for n in (1, 2, 3, 4)) == lengths
        assert len({tokens[0] for tokens in spelled}) == firsts
