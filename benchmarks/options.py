"""The words of the benchmarks, read before torch is imported: a wrong one costs a line and no seconds."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from slr.core import argv
from slr.core.argv import Option
from slr.core.errors import UserError, explained

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data" / "wlasl" / "index" / "WLASL_v0.3.json"
FLAGS = {"--quick": "quick=yes", "--cpu-time": "cpu_time=yes"}


@dataclass(frozen=True, kw_only=True)
class BenchArgs(argv.Arguments):
    """What most benchmarks take. A subclass's docstring is the help's first line."""

    quick: Annotated[bool, Option("as --quick: fewer cases")] = False
    cpu_time: Annotated[bool, Option("as --cpu-time: count the processor's seconds instead of the clock's")] = False
    json: Annotated[Path | None, Option("as --json FILE: write the rows there too", shown="no")] = None

    def __post_init__(self) -> None:
        if self.json and not self.json.absolute().parent.is_dir():
            raise UserError(f"--json {self.json}: expected a file in a folder that exists; make the folder")


@dataclass(frozen=True, kw_only=True)
class NetworkArgs(BenchArgs):
    """Which network is measured, and where."""

    model: Annotated[str, Option("tiny, or InternVL3.5-2B with random weights", ("tiny", "2b"))] = "tiny"
    config: Annotated[Path | None, Option("folder of the 2B's configuration and tokenizer", shown="none")] = None
    device: Annotated[str | None, Option("where to compute", ("cpu", "cuda"), shown="best")] = None
    quantization: Annotated[str | None, Option("of weights", ("none", "nf4"), shown="nf4 on cuda")] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model == "2b" and not self.config:
            raise UserError(
                "model=2b: expected config=FOLDER with InternVL3.5-2B's configuration, tokenizer and processor"
            )


@dataclass(frozen=True)
class CopiesArgs(argv.Arguments):
    """Measure how far copies and different clips are apart in fingerprints."""

    command = "python benchmarks/copies.py"
    data: Annotated[Path, Option("a prepared data set", shown="FOLDER")]
    every: Annotated[int, Option("copy each so many clips", least=1)] = 1


@dataclass(frozen=True)
class FeaturesArgs(argv.Arguments):
    """Measure what storing features in fewer bits changes."""

    command = "python benchmarks/features.py"
    run: Annotated[Path, Option("a run", shown="FOLDER")]
    limit: Annotated[int, Option("most clips of its val part", least=1)] = 1000


@dataclass(frozen=True, kw_only=True)
class LoaderArgs(BenchArgs):
    """Measure reading clips from videos and from the frame cache."""

    command = "python benchmarks/loader.py"
    clips: Annotated[int | None, Option("of each size", least=1, shown="8, or 3 with --quick")] = None
    rounds: Annotated[int | None, Option("turns of each way", least=1, shown="5, or 2 with --quick")] = None


@dataclass(frozen=True)
class PreparationArgs(argv.Arguments):
    """Measure what preparing a clip costs, and what a second worker gives."""

    command = "python benchmarks/preparation.py"
    clips: Annotated[Path, Option("of mp4 files", shown="FOLDER")]
    count: Annotated[int, Option("most videos", least=2)] = 40
    rounds: Annotated[int, Option("turns", least=1)] = 2


@dataclass(frozen=True, kw_only=True)
class RankArgs(NetworkArgs):
    """Measure ranking a vocabulary for a clip against beam search."""

    command = "python benchmarks/rank.py"
    frames: Annotated[int, Option("of a clip", least=1)] = 8
    clips: Annotated[tuple[int, ...] | None, Option("at once", least=1, shown="1,8, or 1 with --quick")] = None
    index: Annotated[Path | None, Option("WLASL_v0.3.json, for glosses", shown="invented glosses")] = (
        BESIDE if BESIDE.is_file() else None
    )
    rounds: Annotated[int, Option("turns", least=1)] = 9
    calls: Annotated[int, Option("of a turn", least=1)] = 2


@dataclass(frozen=True, kw_only=True)
class SavingArgs(BenchArgs):
    """Measure what being able to stop and resume costs."""

    command = "python benchmarks/saving.py"
    rounds: Annotated[int | None, Option("turns", least=1, shown="5, or 1 with --quick")] = None


@dataclass(frozen=True, kw_only=True)
class StepArgs(NetworkArgs):
    """Measure an optimiser step of training against the plain recipe."""

    command = "python benchmarks/step.py"
    batch: Annotated[int | None, Option("clips of a step", least=1, shown="16, or 2 on cuda")] = None
    micro: Annotated[int | None, Option("clips computed at once", least=1, shown="as fit")] = None
    frames: Annotated[tuple[int, ...] | None, Option("of a clip", least=1, shown="8,16, or 8 with --quick")] = None
    steps: Annotated[int | None, Option("of a turn", least=1, shown="3, 10 on cuda, 1 with --quick")] = None
    rounds: Annotated[int, Option("turns of each contestant", least=1)] = 3


@dataclass(frozen=True, kw_only=True)
class TowerArgs(BenchArgs):
    """Measure what a vision tower in fewer bits costs and gains."""

    command = "python benchmarks/tower.py"
    run: Annotated[Path, Option("a run", shown="FOLDER")]
    limit: Annotated[int, Option("most clips of its val part", least=1)] = 1000
    rounds: Annotated[int, Option("turns", least=1)] = 9


Kind = TypeVar("Kind", bound=argv.Arguments)


def read(kind: type[Kind]) -> Kind:
    """The words of the command line; a wrong one ends the process with one line and exit code 2."""
    words = [FLAGS.get(word, word) for word in sys.argv[1:]]

    def parse() -> Kind:
        if "--json" in words:
            place = words.index("--json")
            if place + 1 == len(words):
                raise UserError("--json: expected a path after it")
            words[place : place + 2] = [f"json={words[place + 1]}"]
        return argv.read(kind, words)

    return explained(parse)
