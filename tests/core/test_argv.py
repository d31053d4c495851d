from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest

from slr.core.argv import Arguments, Option, help_text, read
from slr.core.errors import UserError


@dataclass(frozen=True)
class CutArgs(Arguments):
    """Cut clips into pieces."""

    command = "slr cut"
    run: Annotated[Path, Option("folder of a run", shown="FOLDER")]
    part: Annotated[str, Option("clips", choices={"val": "validation", "test": "kept apart"})] = "test"
    limit: Annotated[int | None, Option("the first clips", least=1, shown="all")] = None
    share: Annotated[float, Option("how much of them", most=1)] = 0.9
    rounds: Annotated[tuple[int, ...], Option("turns", least=1)] = (1, 2)
    hardware__memory: Annotated[str | None, Option("of the machine")] = None
    quick: Annotated[bool, Option("less of it")] = False
    seen: int = 3  # not typed


def test_defaults_and_types():
    assert read(CutArgs, ["run=x"]) == CutArgs(Path("x"), "test", None, 0.9, (1, 2), None, False, 3)
    words = ["run=x", "part=val", "limit=5", "share=1e-1", "rounds=[3, 4]", "hardware.memory=8GB", "quick=yes"]
    assert read(CutArgs, words) == CutArgs(Path("x"), "val", 5, 0.1, (3, 4), "8GB", True)
    assert read(CutArgs, ["run=x", "limit=5", "limit=all", "quick=yes"]) == CutArgs(Path("x"), quick=True)


@pytest.mark.parametrize("path", ["a b", "a,b", "a=b", "it's", "ä/ö", "${x}", "(1)", "[x]", "~no user/x"])
def test_any_path_passes_as_typed(path):
    assert str(read(CutArgs, [f"run={path}"]).run) == path


def test_a_path_of_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/x")
    monkeypatch.setenv("USERPROFILE", "/home/x")
    assert read(CutArgs, ["run=~/a"]).run == Path("/home/x/a")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run"], "run: expected key=value; did you mean run?"),
        (["--part", "val"], "--part: expected key=value; did you mean part?"),
        (["rum=x"], "rum=x: unknown key 'rum'; did you mean run?"),
        (["part=val"], "run is not given; usage: slr cut run=FOLDER [KEY=VALUE …]"),
        (["run=x", "zzz=1"], "zzz=1: unknown key 'zzz'; usage: slr cut"),
        (["run="], "run=: expected a path"),
        (["run=x", "part=train"], "part=train: expected one of val, test"),
        (["run=x", "quick=1"], "quick=1: expected one of yes, no"),
        (["run=x", "share=1.1"], "share=1.1: expected a number from 0 to 1"),
        (["run=x", "share=nan"], "share=nan: expected a number from 0 to 1"),
        (["run=x", "rounds=1,0"], "rounds=0: expected a whole number of at least 1"),
        *(
            (["run=x", f"limit={bad}"], f"limit={bad}: expected a whole number of at least 1")
            for bad in ("0", "x", "1.5")
        ),
        (["run=x", "seen=1"], "unknown key 'seen'"),
    ],
)
def test_refusals(words, message):
    with pytest.raises(UserError) as refused:
        read(CutArgs, words)
    assert str(refused.value).startswith(message) or message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_help_names_each_key_with_default_meaning_and_values(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as end:
        read(CutArgs, ["nonsense", "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert text == help_text(CutArgs) + "\n"
    assert text.splitlines()[:3] == ["usage: slr cut run=FOLDER [KEY=VALUE …]", "", "Cut clips into pieces."]
    rows = {line.split()[0]: line for line in text.splitlines() if line.startswith("  ")}
    assert list(rows) == [
        "run=FOLDER",
        "part=test",
        "limit=all",
        "share=0.9",
        "rounds=1,2",
        "hardware.memory=None",
        "quick=no",
    ]
    assert rows["part=test"].endswith("clips: val (validation), test (kept apart)")
    assert rows["share=0.9"].endswith("how much of them: a number from 0 to 1")
    assert max(map(len, text.splitlines())) <= 80
