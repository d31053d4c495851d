"""`report.html`: an evaluation as one page that opens anywhere, without network, and shows clips behind its numbers.

The template escapes every text (glosses and signers come from data sets), and the page's Content-Security-Policy
forbids it to load or to run anything but its own content.
"""

import base64
import hashlib
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix

from slr.core import tensorboard as events
from slr.core.console import ABSENT
from slr.core.errors import UserError
from slr.core.files import read_json, write_whole
from slr.core.run_folder import RunFolder, flat, hashes_of
from slr.data.manifest import Clip
from slr.evaluation.compare.runs import PLACES
from slr.evaluation.ranks import true_rank
from slr.evaluation.report import figures
from slr.evaluation.report.clips import FRAMES, choose, jpeg, worst_first
from slr.evaluation.results import TITLES, metric_rows, notes
from slr.predict.predictor import ClipPredictor
from slr.predict.results import Seen

HERE = Path(__file__).parent
HEADLINES = [TITLES[name] for name in ("top1", "top5", "mrr")]
CONFUSED, PAIRS = 12, 12  # glosses of the matrix; pairs beneath it
SIGNERS = 20  # shown at once; the others can be unfolded
NEAR = 10  # glosses of a ranking that count as near
BARS = 40  # height of the bars under a frame, in their own units


def report(
    recognizer: ClipPredictor,
    clips: Sequence[Clip],
    results: Mapping[str, Any],
    run: RunFolder,
    place: Path | None = None,
    data: Path | None = None,
) -> Path:
    """Write `report.html`, and its figures into the run's TensorBoard; returns the page's path.

    Args:
        recognizer: the one that was evaluated.
        clips: those of `results["predictions"]`, in their order.
        results: of `evaluation`.
        run: of the recognizer.
        place: the folder of the page; None is the run's `evaluation/`.
        data: the folder of the clips' data set; None is the run's own.

    Raises:
        UserError: the page cannot be written.
    """
    chosen = choose(results, max(1, FRAMES // read_json(run.config)["frames"]))
    shown = [results["predictions"][number] for number in chosen]
    # Frames may speak for the gloss that was named and, where that is another one, for the true one.
    glosses = [list(dict.fromkeys([clip["ranking"][0]["gloss"], clip["gloss"]])) for clip in shown]
    seen = recognizer.show([clips[number] for number in chosen], glosses, "report: frames that decided", data)
    strips = {clip["clip"]: own for clip, own in zip(shown, seen, strict=True)}
    curves = events.scalars(run.root)
    path = (place or run.evaluation) / "report.html"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, page(results, strips, curves, _about(run)))
    except OSError as error:
        raise UserError(f"{path}: expected a page that can be written, {error.strerror}; use report=no") from error
    drawn = {name: figures.pixels(figure) for name, figure in _drawings(results, {}).items()}
    title = results["summary"]["part"] if path.parent == run.evaluation else path.parent.name
    last = max((step for points in curves.values() for step, _ in points), default=0)
    events.add_images(run.root, f"evaluation/{title}", drawn, last)
    return path


def _about(run: RunFolder) -> dict[str, Any]:
    """What a run's folder records of it, without the paths of files."""
    return {
        "run": f"{run.root.parent.name}/{run.root.name}",
        "written": time.strftime("%Y-%m-%d %H:%M"),
        "settings": {key: value for key, value in flat(read_json(run.config)).items() if key not in PLACES},
        "hashes": hashes_of(run),
        "versions": {name: version for name, version in run.facts.get("versions", {}).items() if version},
    }


def _drawings(results: Mapping[str, Any], curves: figures.Curves) -> dict[str, Any]:
    """The figures of an evaluation by name, without those that have nothing to show."""
    calibration, confused = results["calibration"], confusion(results)
    drawn = {
        "loss": figures.curves(curves, figures.LOSSES, "loss, nats"),
        "scores": figures.curves(curves, figures.SCORES, "validation part"),
        "confusion": figures.confusion(*confused) if confused else None,
        "reliability": figures.reliability(calibration) if calibration else None,
        "risk": figures.risk(calibration) if calibration else None,
    }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def page(
    results: Mapping[str, Any], strips: Mapping[str, Seen], curves: figures.Curves, about: Mapping[str, Any]
) -> str:
    """The whole page, HTML.

    Args:
        results: of `evaluation`.
        strips: clip -> its frames, of the clips to show.
        curves: tag -> (step, value), from TensorBoard.
        about: where the results come from: run, written, settings, hashes, versions.
    """
    style, script, text = ((HERE / f"page.{end}").read_text(encoding="utf-8") for end in ("css", "js", "html"))
    code = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["share"] = lambda value: ABSENT if value is None else f"{value:.3f}"
    metrics, pairs, rows = metric_rows(results), _pairs(results), _rows(results, strips)
    return environment.from_string(text).render(
        about=about,
        data=Path(results["summary"]["data"]).name,
        summary=results["summary"],
        calibration=results["calibration"],
        signers=results["per_signer"],
        signers_at_once=SIGNERS,
        headlines=[row for row in metrics if row["title"] in HEADLINES],
        metrics=metrics,
        notes=[note.partition(": ")[::2] for note in notes(results)],
        figures={name: Markup(figures.svg(figure, name)) for name, figure in _drawings(results, curves).items()},
        curves={tag: points for tag, points in curves.items() if tag in figures.LOSSES | figures.SCORES},
        pairs=pairs[:PAIRS],
        mistakes=sum(count for *_, count in pairs),
        rows=rows,
        pictured=len(strips),
        unpictured=sum(row["n"] > 0 and not row["clips"] for row in rows),
        style=Markup(style),
        script=Markup(script),
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{code}'; "
        "base-uri 'none'; form-action 'none'",
    )


def _pairs(results: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """(signed, named, clips), the most frequent first."""
    rows = [(row["gloss"], named, count) for row in results["per_gloss"] for named, count in row["confused_with"]]
    return sorted(rows, key=lambda row: (-row[2], row[0], row[1]))


def confusion(results: Mapping[str, Any]) -> tuple[list[str], NDArray[np.int64]] | None:
    """The `CONFUSED` glosses that take part in most mistakes, and how often each of them was named for each.

    Returns:
        The glosses by name, and clips int (n, n), signed by row and named by column; None without a mistake.
    """
    mistakes: Counter[str] = Counter()
    for signed, named, count in _pairs(results):
        mistakes.update({signed: count, named: count})
    if not mistakes:
        return None
    worst = sorted(gloss for gloss, _ in mistakes.most_common(CONFUSED))
    pairs = [(prediction["gloss"], prediction["ranking"][0]["gloss"]) for prediction in results["predictions"]]
    return worst, confusion_matrix(*zip(*pairs, strict=True), labels=worst)


def _rows(results: Mapping[str, Any], strips: Mapping[str, Seen]) -> list[dict[str, Any]]:
    """A row for each gloss, the worst first: its figures, what is near it, its clips that are shown."""
    by_gloss: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for prediction in results["predictions"]:
        by_gloss[prediction["gloss"]].append(prediction)
    rows = []
    for row in worst_first(results["per_gloss"]):
        own = by_gloss[row["gloss"]]
        clips = [_clip(clip, strips[clip["clip"]]) for clip in own if clip["clip"] in strips]
        near = _near(own, row["gloss"])
        rows.append({**row, "near": near, "clips": sorted(clips, key=lambda clip: clip["right"])})
    return rows


def _near(predictions: Sequence[Mapping[str, Any]], gloss: str) -> list[tuple[str, float]]:
    """Three other glosses at most, with the largest mean probability over a gloss's clips, none below 0.1 %."""
    masses: Counter[str] = Counter()
    for prediction in predictions:
        for entry in prediction["ranking"][:NEAR]:
            if entry["gloss"] != gloss:
                masses[entry["gloss"]] += entry["probability"] / len(predictions)
    return [(other, mass) for other, mass in masses.most_common(3) if mass >= 0.001]


def _clip(prediction: Mapping[str, Any], shown: Seen) -> dict[str, Any]:
    """A clip as the template reads it."""
    ranking, gloss, rank = prediction["ranking"], prediction["gloss"], true_rank(prediction)
    kinds = {other: "right" if other == gloss else "wrong" for other in shown.weights}
    return {
        "id": prediction["clip"],
        "signer": prediction["signer"],
        "right": rank == 1,
        "gloss": gloss,
        "named": ranking[0]["gloss"],
        "rank": rank,
        "probability": ranking[rank - 1]["probability"],
        "unknown": not prediction["answered"],
        "written": prediction.get("generated", [])[:1],
        "top": ranking[:5],
        "kinds": kinds,
        "frames": _frames(shown, kinds),
    }


def _frames(shown: Seen, kinds: Mapping[str, str]) -> list[dict[str, Any]]:
    """Each frame with its bars: those of one clip have one scale, and stand on, or hang from, one line.

    A nat takes no more than the whole height, so that what hardly matters looks so.
    """
    values = np.array(list(shown.weights.values()))  # (glosses, T)
    above, below = max(0.0, values.max()), max(0.0, -values.min())
    scale = BARS / max(above + below, 1.0)
    line = BARS - below * scale
    frames = []
    for number, (frame, seconds) in enumerate(zip(shown.frames, shown.seconds, strict=True)):
        weights = {gloss: weights[number] for gloss, weights in shown.weights.items()}
        bars = [
            {"kind": kinds[gloss], "y": line - max(0.0, value) * scale, "height": abs(value) * scale}
            for gloss, value in weights.items()
        ]
        source = "data:image/jpeg;base64," + base64.b64encode(jpeg(frame)).decode()
        frames.append({"source": source, "seconds": seconds, "weights": weights, "bars": bars, "line": line})
    return frames
