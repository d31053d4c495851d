"""Compare runs: `python -m slr.compare outputs/…/sweeps/frames`."""

import difflib
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from slr.core import argv
from slr.core.errors import UserError, one_line
from slr.core.files import write_whole
from slr.evaluation.compare import tables
from slr.evaluation.compare.runs import METRICS, Run, find_runs, read_run
from slr.evaluation.compare.settings import Group, comparable

USAGE = (
    "python -m slr.compare FOLDER [FOLDER …] [by=seed] [metric=top1|top5|mrr] [part=test|val] [csv=FILE] [picture=FILE]"
)
BESIDE = "beside the runs"
DEFAULTS = {"by": "seed", "metric": "top1", "part": "test", "csv": BESIDE, "picture": BESIDE}


def understand(words: Sequence[str]) -> tuple[list[Path], dict[str, str]]:
    """Folders and options among the words that were typed; a word that names a folder is one, whatever it looks like.

    Raises:
        UserError: no folder, one that is not there, or an option that cannot be.
    """
    folders = [Path(word) for word in words if Path(word).is_dir()]
    rest = [word for word in words if not Path(word).is_dir()]
    for word in rest:
        key = word.partition("=")[0]
        if "=" not in word or "/" in key:
            raise UserError(f"{word}: expected the folder of a run, or of runs, found none; usage: {USAGE}")
    options = argv.parse(rest, DEFAULTS, USAGE)
    for key, allowed in (("metric", METRICS), ("part", tuple(tables.PARTS))):
        if options[key] not in allowed:
            raise UserError(f"{key}={options[key]}: expected one of {', '.join(allowed)}")
    if not folders:
        raise UserError(f"expected the folder of a run, or of runs, found none; usage: {USAGE}")
    return folders, options


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
            broken.append(f"left out: {one_line(error)}")
    if not runs:
        places = ", ".join(map(str, folders))
        if broken:
            raise UserError(f"{places}: expected runs, found none that can be read; {broken[0]}")
        raise UserError(f"{places}: expected runs, found no result.json at or below; runs lie under outputs/")
    return runs, broken


def check_keys(by: Sequence[str], runs: Sequence[Run]) -> None:
    """Refuse to gather runs over a setting that none of them has."""
    keys = {key for run in runs for key in run.settings}
    for key in by:
        if key not in keys:
            near = difflib.get_close_matches(key, keys, 1)
            hint = f"did you mean {near[0]}?" if near else "use one of the page, such as seed or lora.r"
            raise UserError(f"by={key}: expected a setting of the runs, found none of that name; {hint}")


def report(groups: Sequence[Group], runs: Sequence[Run], by: Sequence[str], metric: str) -> list[str]:
    """What a person reads, in paragraphs: each comparable group, the runs that are not done, why groups are apart."""
    paragraphs = []
    for number, group in enumerate(groups, 1):
        title = f"group {number}: " if len(groups) > 1 else ""
        paragraphs.append(f"{title}{tables.counted(len(group.runs))} done, {group.ground.describe()}")
        paragraphs += tables.group_paragraphs(group, by, metric)
    unfinished = [run for run in runs if run.ground is None]
    if unfinished:
        paragraphs.append(f"not ranked, not done:\n{tables.status_table(unfinished, by)}")
    if len(groups) > 1:
        paragraphs.append("\n".join(tables.why_apart(groups)))
    return paragraphs


def written(options: dict[str, str], first: Path) -> tuple[Path, Path]:
    """Where rows and picture go: as typed, or into the folder of runs that was typed first, never into a run's own."""
    place = first.resolve()
    place = place.parent if (place / "result.json").is_file() else place
    names = {"csv": "comparison.csv", "picture": "comparison.png"}
    paths = [place / name if options[key] == BESIDE else Path(options[key]).expanduser() for key, name in names.items()]
    return paths[0], paths[1]


def write(groups: Sequence[Group], runs: Sequence[Run], options: dict[str, str], first: Path) -> list[str]:
    """Write rows and picture; returns a line for each file.

    Raises:
        UserError: a file cannot be written.
    """
    rows, picture = written(options, first)
    try:
        rows.parent.mkdir(parents=True, exist_ok=True)
        write_whole(rows, tables.csv_text(groups, runs, options["by"].split(",")))
        if not groups:
            return [f"written: {rows}"]
        from slr.evaluation.compare.scatter import draw

        picture.parent.mkdir(parents=True, exist_ok=True)
        draw(picture, [group.settings for group in groups], options["part"], options["metric"])
    except OSError as error:
        raise UserError(
            f"{error.filename}: expected a file that can be written, {error.strerror}; use csv=FILE picture=FILE"
        ) from error
    return [f"written: {rows}", f"written: {picture}"]


def main() -> None:
    """Read the words and the runs, print what is known, write rows and picture."""
    if any(word in ("-h", "--help") for word in sys.argv[1:]):
        print(f"usage: {USAGE}")
        return
    folders, options = understand(sys.argv[1:])
    by = options["by"].split(",")
    runs, broken = gather(folders)
    check_keys(by, runs)
    groups = comparable(runs, by, options["metric"])
    print("\n\n".join(["\n".join(broken)] * bool(broken) + report(groups, runs, by, options["metric"])), flush=True)
    print("\n" + "\n".join(write(groups, runs, options, folders[0])))
