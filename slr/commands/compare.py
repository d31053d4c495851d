"""Compare runs: `slr compare outputs/…/sweeps/frames`."""

import difflib
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from slr.core import argv
from slr.core.argv import Option
from slr.core.env import command
from slr.core.errors import UserError, one_line
from slr.core.files import write_whole
from slr.core.units import counted
from slr.evaluation.compare import tables
from slr.evaluation.compare.runs import METRICS, Run, find_runs, read_run
from slr.evaluation.compare.settings import Group, comparable

NAMES = {"csv": "comparison.csv", "picture": "comparison.png"}


@dataclass(frozen=True)
class CompareArgs(argv.Arguments):
    """Rank the settings of runs by validation, and test on the test part whether they differ.

    Each FOLDER is a run, or is searched for runs.
    """

    command = "slr compare FOLDER [FOLDER …]"
    word = "the folder of a run, or of runs, found none"
    by: Annotated[tuple[str, ...], Option("settings in which runs of one setting may differ")] = ("seed",)
    metric: Annotated[str, Option("ranks and tests the settings", METRICS)] = "top1"
    part: Annotated[str, Option("the part in the picture", tuple(tables.PARTS))] = "test"
    csv: Annotated[Path | None, Option("a row for each run; by default in the first FOLDER", shown=NAMES["csv"])] = None
    picture: Annotated[Path | None, Option("score against cost; by default there too", shown=NAMES["picture"])] = None


def gather(folders: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """The runs at or below the folders, each once, and a line for each that cannot be read.

    Raises:
        UserError: there is no run, or none that can be read.
    """
    runs, broken = [], []
    for folder in dict.fromkeys(run for place in folders for run in find_runs(place)):
        try:
            runs.append(read_run(folder))
        except UserError as error:
            broken.append(f"skipped: {one_line(error)}")
    if not runs:
        found = f"none that can be read; {broken[0]}" if broken else "no result.json at or below; runs are in outputs/"
        raise UserError(f"{', '.join(map(str, folders))}: expected runs, found {found}")
    return runs, broken


def check_keys(by: Sequence[str], runs: Sequence[Run]) -> None:
    """Refuse to group runs by a setting that none of them has."""
    keys = {key for run in runs for key in run.settings}
    for key in [key for key in by if key not in keys]:
        near = difflib.get_close_matches(key, keys, 1)
        hint = f"did you mean {near[0]}?" if near else "use one of the page, such as seed or lora.r"
        raise UserError(f"by={key}: expected a setting of the runs, found none of that name; {hint}")


def report(groups: Sequence[Group], runs: Sequence[Run], by: Sequence[str], metric: str) -> list[str]:
    """Paragraphs for a person: each comparable group, the runs that are not done, why groups are apart."""
    paragraphs = []
    for number, group in enumerate(groups, 1):
        title = f"group {number}: " if len(groups) > 1 else ""
        paragraphs.append(f"{title}{counted(len(group.runs), 'run')} done, {group.ground.describe()}")
        paragraphs += tables.group_paragraphs(group, by, metric)
    if unfinished := [run for run in runs if run.ground is None]:
        paragraphs.append(f"not ranked, not done:\n{tables.status_table(unfinished, by)}")
    if len(groups) > 1:
        paragraphs.append("\n".join(tables.why_apart(groups)))
    return paragraphs


def write(groups: Sequence[Group], runs: Sequence[Run], args: CompareArgs, first: Path) -> list[Path]:
    """Write rows and picture: as typed, or into the first folder; of a run, into the folder that it is in.

    Raises:
        UserError: a file cannot be written.
    """
    place = first.resolve()
    place = place.parent if (place / "result.json").is_file() else place
    rows, picture = args.csv or place / NAMES["csv"], args.picture or place / NAMES["picture"]
    try:
        rows.parent.mkdir(parents=True, exist_ok=True)
        write_whole(rows, tables.csv_text(groups, runs, args.by))
        if not groups:
            return [rows]
        from slr.evaluation.compare.scatter import draw

        picture.parent.mkdir(parents=True, exist_ok=True)
        draw(picture, [group.settings for group in groups], args.part, args.metric)
    except OSError as error:
        found = f"{error.filename}: expected a file that can be written, {error.strerror}"
        raise UserError(f"{found}; use csv=FILE picture=FILE") from error
    return [rows, picture]


def main() -> None:
    """Compare the runs that the command line names; a word that names a folder is one, even if it has a `=`."""
    folders = [Path(word) for word in sys.argv[1:] if Path(word).is_dir()]
    args = argv.read(CompareArgs, [word for word in sys.argv[1:] if not Path(word).is_dir()])
    if not folders:
        raise UserError(f"expected {CompareArgs.word}; {argv.usage(CompareArgs)}")
    runs, broken = gather(folders)
    check_keys(args.by, runs)
    groups = comparable(runs, args.by, args.metric)
    lines = ["\n".join(broken)] * bool(broken) + report(groups, runs, args.by, args.metric)
    print("\n\n".join(lines), flush=True)
    print("\n" + "\n".join(f"written: {path}" for path in write(groups, runs, args, folders[0])))
    if groups:
        again = command("evaluate", f"run={groups[0].runs[0].folder}")
        print(f"next: {again} writes a report of the best setting's first run")
