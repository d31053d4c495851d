"""Is it better than simpler things? `python -m slr.ladder experiment=demo` runs or reuses them under one protocol.

Finished runs are reused, whether a ladder, a sweep or `train.py` made them. On the same test clips of the same split
and vocabulary, from chance upwards: the commonest gloss, the base model without training, a linear probe on its vision
features, and trained models.
"""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from slr import factory
from slr.config import jobs, overrides, schema
from slr.config.provenance import known_base
from slr.config.saved_run import find_run, open_run
from slr.core import env
from slr.core.console import ABSENT, aligned
from slr.core.errors import UserError
from slr.core.files import read_json, write_json
from slr.core.run_folder import RunFolder, digest, hashes_of, status_of

GREY = 128  # of a clip that shows nothing


class Rung(NamedTuple):
    """A step of the ladder: `words` for train.py where it is a run of its own."""

    title: str
    words: tuple[str, ...] | None


# In the order in which one would expect them.
RUNGS = {
    "chance": Rung("chance", None),
    "majority": Rung("the commonest gloss of the training part", None),
    "zero_shot": Rung("base model, no training", ("lora=none",)),
    "zero_shot_prior": Rung("base model, its prior taken out", None),
    "probe": Rung("linear probe on vision features", None),
    "lora": Rung("LoRA", ("lora=language",)),
    "closed_set": Rung("LoRA, closed-set loss", ("lora=language", "objective=closed_set")),
    "full": Rung("all language weights", ("lora=full",)),
}
# LoRA wants about ten times the learning rate that all weights take (Biderman et al. 2024, "LoRA Learns Less").
FULL_RATE = 0.1


def climb(words: Sequence[str], rungs: Sequence[str]) -> tuple[list[dict[str, Any]], Path]:
    """Run what is missing, and measure every rung.

    Args:
        words: of train.py, one value each.
        rungs: keys of `RUNGS`.

    Returns:
        A row for each rung, with metrics and intervals, and the folder with the runs and `ladder.json`.
    """
    words = [*words, *([] if any(word.startswith("sweep=") for word in words) else ["sweep=ladder"])]
    config = one_job(words)
    place = Path(config.outputs) / f"{config.dataset.name}-{config.model.name}" / "sweeps" / str(config.sweep)
    # The base model's run is always needed: all else is measured on its split.
    runs = [name for name, rung in RUNGS.items() if rung.words and (name in rungs or name == "zero_shot")]
    folders = {name: trained(name, words, place, config) for name in runs}
    refuse_mixed(folders)
    base = folders["zero_shot"]
    known = read_json(place / "ladder.json") if (place / "ladder.json").is_file() else {}
    key = digest([read_json(base.result)["hashes"], schema.identity(find_run(base.root)[1])])
    rows = known["rows"] if known.get("key") == key else {}
    computed = [name for name in rungs if RUNGS[name].words is None and name not in rows]
    if computed:
        rows |= measured(base, computed)
        write_json(place / "ladder.json", {"key": key, "rows": rows})
    rows |= {name: _summary(folder) for name, folder in folders.items()}
    return [{"rung": name, "title": RUNGS[name].title} | rows[name] for name in rungs], place


def _summary(folder: RunFolder) -> dict[str, Any]:
    return read_json(folder.evaluation / "evaluation_results.json")["summary"]


def one_job(words: Sequence[str]) -> schema.Config:
    """The configuration that the words make.

    Raises:
        UserError: they make several.
    """
    configs = jobs.configurations(overrides.quote_paths(["-m", *words]))
    if len(configs) != 1:
        raise UserError(f"expected words of one run, found those of {len(configs)}; give each setting one value")
    return configs[0]


def refuse_mixed(folders: Mapping[str, RunFolder]) -> None:
    """Check that the rungs' runs have one base model.

    Raises:
        UserError: its branch on the hub has moved between them, or its weights are others.
    """
    models = {name: find_run(folder.root)[1].model for name, folder in folders.items()}
    versions = {
        name: model.commit or known_base(model.checkpoint, model.weights, hashes_of(folders[name]))
        for name, model in models.items()
    }
    if len(set(versions.values())) > 1:
        found = ", ".join(f"{name} with {version}" for name, version in versions.items())
        raise UserError(f"expected rungs of one version of the model, found {found}; name one: model.revision=COMMIT")


def trained(name: str, words: Sequence[str], place: Path, config: schema.Config) -> RunFolder:
    """The folder of a rung's run, which `train.py` starts or continues where it is not done."""
    words = [*words, *(RUNGS[name].words or ())]
    if name == "full":
        words.append(f"optimizer.lr={config.optimizer.lr * FULL_RATE:g}")
    wanted = digest(schema.identity(one_job(words)))
    done = finished(place.parent.parent, wanted)
    if not done:
        print(f"\n{RUNGS[name].title}: train.py {' '.join(words)}", flush=True)
        code = subprocess.run([sys.executable, str(env.TRAIN), "-m", *words], check=False).returncode
        if code:
            raise UserError(f"rung {name}: train.py ended with {code}; correct what it says, then type the same again")
        done = finished(place.parent.parent, wanted)
    return done[0]


def finished(place: Path, wanted: str) -> list[RunFolder]:
    """The runs of a data set and model that are done and have the wanted settings, in a sweep or alone."""
    found = []
    for path in sorted(place.rglob("config.json")):
        folder = RunFolder(path.parent)
        if folder.is_begun and status_of(folder) == "done":
            with contextlib.suppress(UserError):  # a run of an older slr
                if digest(schema.identity(find_run(folder.root)[1])) == wanted:
                    found.append(folder)
    return found


def measured(base: RunFolder, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Rows of the rungs that are no runs: metrics of the test part, as in the summary of `results.evaluation`."""
    import numpy as np

    from slr.data.split import PARTS, read_split
    from slr.evaluation.evaluate import context
    from slr.evaluation.linear_probe import majority, probe
    from slr.evaluation.results import evaluation, gloss_numbers
    from slr.predict import recognizer
    from slr.predict.calibration import Predictions

    _, config, vocabulary = open_run(base.root)
    split = read_split(base.split, clips := factory.clips(config))
    parts = {part: split.select(clips, part) for part in PARTS}
    true = {part: gloss_numbers(chosen, vocabulary) for part, chosen in parts.items()}
    summary = _summary(base)
    rows: dict[str, dict[str, Any]] = {"chance": summary["chance"] | {"n": summary["n"]}}
    with recognizer.load(base.root) as ranker:

        def features(part: str) -> Any:  # noqa: ANN401
            return ranker.vision_features(parts[part], f"features of {part}")

        def known(part: str) -> Any:  # noqa: ANN401
            return features(part), true[part]

        ways: dict[str, Callable[[], Any]] = {
            "majority": lambda: majority(true["train"], len(parts["test"]), len(vocabulary)),
            # Less the log-probabilities of a clip that shows nothing: contextual calibration (Zhao et al. 2021).
            "zero_shot_prior": lambda: (
                ranker.look_clips(parts["test"], "ranking test").log_probability - ranker.rank_nothing(GREY)
            ),
            "probe": lambda: probe(known("train"), known("val"), features("test"), len(vocabulary)),
        }
        against = context(config, clips, split, "test", None, None)
        for name in [name for name in names if name in ways]:
            predictions = Predictions(ways[name](), np.zeros((len(parts["test"]), 0), np.float32))
            rows[name] = evaluation(parts["test"], vocabulary, predictions, against)["summary"]
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rungs as text, and a line for each that does not differ from chance."""
    cells = [["", "top-1", "95 % interval", "top-5", "95 % interval", "mean reciprocal rank", "n"]]
    for row in rows:
        line = [row["title"]]
        for name in ("top1", "top5"):
            low, high = row.get(f"{name}_interval", (None, None))
            line += [f"{row[name]:.3f}", ABSENT if low is None else f"{low:.3f} – {high:.3f}"]
        cells.append([*line, f"{row['mrr']:.3f}", str(row["n"])])
    lines = [
        f"{row['title']}: its interval contains chance, {row['chance']['top1']:.3f}; it cannot be told from guessing"
        for row in rows
        if "chance" in row and row["top1_interval"][0] <= row["chance"]["top1"] <= row["top1_interval"][1]
    ]
    return "\n".join([aligned(cells), *lines])
