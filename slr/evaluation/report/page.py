"""`report.html`: an evaluation as one page that opens anywhere, without network, and shows clips behind its numbers.

The template escapes every text (glosses and signers come from data sets), and the page's Content-Security-Policy
forbids it to load or to run anything but what it carries.
"""

import base64
import hashlib
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from slr.core import tensorboard as events
from slr.core.errors import UserError
from slr.core.files import read_json, write_whole
from slr.core.run_folder import RunFolder
from slr.data.manifest import Clip
from slr.evaluation.compare.runs import PLACES, flat
from slr.evaluation.report import figures
from slr.evaluation.report.clips import FRAMES, Pictures, choose, glosses_asked, pictures, worst_first
from slr.evaluation.results import GROUPED, TITLES, notes
from slr.predict.results import Seen

HERE = Path(__file__).parent
HEADLINES = ("top1", "top5", "mrr")
CONFUSED, PAIRS = 12, 12  # glosses of the matrix; pairs beneath it
SIGNERS = 20  # shown at once; the others can be unfolded
NEAR = 10  # glosses of a ranking that count as near
BARS = 40  # height of the bars under a frame, in their own units


class Shower(Protocol):
    """What can show a model's clips to a person; `slr.predict.SignRecognizer` can."""

    def show(
        self, clips: Sequence[Clip], glosses: Sequence[Sequence[str]], title: str, folder: Path | None
    ) -> Iterator[Seen]:
        """Each clip's frames, and by how much they speak for some glosses."""
        ...


@dataclass(frozen=True)
class About:
    """Where an evaluation comes from.

    Attributes:
        run: its name.
        written: when the page was made.
        settings: dotted name -> value.
        hashes, versions: what the run recorded.
    """

    run: str
    written: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)


def report(
    recognizer: Shower,
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
        results: what `evaluation` gives.
        run: of the recognizer.
        place: the folder of the page; None is the run's `evaluation/`.
        data: the folder of the clips' data set; None is the run's own.

    Raises:
        UserError: the page cannot be written.
    """
    frames = max(1, int(read_json(run.config)["frames"]))
    chosen = choose(results, max(1, FRAMES // frames))
    asked = [glosses_asked(results["predictions"][number]) for number in chosen]
    seen = recognizer.show([clips[number] for number in chosen], asked, "report: frames that decided", data)
    shown = {clips[number].id: pictures(one) for number, one in zip(chosen, seen, strict=True)}
    lines = events.scalars(run.root)
    path = (place or run.evaluation) / "report.html"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, page(results, shown, lines, about(run)))
    except OSError as error:
        raise UserError(f"{path}: expected a page that can be written, {error.strerror}; use report=no") from error
    drawn = {name: figures.pixels(figure) for name, figure in drawings(results, {}).items()}
    title = results["summary"]["part"] if path.parent == run.evaluation else path.parent.name
    events.add_images(run.root, f"evaluation/{title}", drawn, _last(lines))
    return path


def about(run: RunFolder) -> About:
    """What a run's folder tells of it, without where things lie."""
    result = read_json(run.result) if run.result.is_file() else {}
    settings = {key: value for key, value in flat(read_json(run.config)).items() if key not in PLACES}
    return About(
        run=f"{run.root.parent.name}/{run.root.name}",
        written=time.strftime("%Y-%m-%d %H:%M"),
        settings=settings,
        hashes=result.get("hashes", {}),
        versions={name: version for name, version in result.get("versions", {}).items() if version},
    )


def _last(curves: figures.Curves) -> int:
    return max((step for points in curves.values() for step, _ in points), default=0)


def drawings(results: Mapping[str, Any], curves: figures.Curves) -> dict[str, Any]:
    """The figures of an evaluation by name; those that have nothing to show are left out.

    Args:
        results: what `evaluation` gives.
        curves: tag -> (step, value), from TensorBoard.
    """
    told, confused = results["calibration"], confusion(results)
    drawn = {
        "loss": figures.loss(curves),
        "scores": figures.scores(curves),
        "confusion": figures.confusion(*confused) if confused else None,
        "reliability": figures.reliability(told) if told else None,
        "risk": figures.risk(told) if told else None,
    }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def page(results: Mapping[str, Any], pictures: Mapping[str, Pictures], curves: figures.Curves, about: About) -> str:
    """The whole page, HTML.

    Args:
        results: what `evaluation` gives.
        pictures: clip -> its frames, of as many clips as shall be shown.
        curves: tag -> (step, value), from TensorBoard.
        about: where the results come from.
    """
    script = (HERE / "page.js").read_text(encoding="utf-8")
    code = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"share": _share, "signed": _signed}
    template = environment.from_string((HERE / "page.html").read_text(encoding="utf-8"))
    drawn = {name: Markup(figures.svg(figure, name)) for name, figure in drawings(results, curves).items()}
    rows = _rows(results, pictures)
    return template.render(
        about=about,
        data=Path(results["summary"]["data"]).name,
        summary=results["summary"],
        told=results["calibration"],
        signers=results["per_signer"],
        signers_at_once=SIGNERS,
        headlines=[_metric(results["summary"], name) for name in HEADLINES],
        metrics=_metrics(results),
        notes=[note.partition(": ")[::2] for note in notes(results)],
        figures=drawn,
        curves={tag: points for tag, points in curves.items() if tag in figures.LOSSES | figures.SCORES},
        pairs=_pairs(results)[:PAIRS],
        mistakes=sum(count for *_, count in _pairs(results)),
        rows=rows,
        pictured=len(pictures),
        unpictured=sum(row["n"] > 0 and not row["clips"] for row in rows),
        style=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{code}'; "
        "base-uri 'none'; form-action 'none'",
    )


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _signed(value: float) -> str:
    """A weight as it is read: with a sign, none for what rounds to nothing.

    >>> _signed(1.26), _signed(-0.3), _signed(-0.01)
    ('+1.3', '−0.3', '0.0')
    """
    return f"{value:+.1f}".replace("-", "−") if abs(value) >= 0.05 else "0.0"


def _metrics(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    summary, written = results["summary"], results["generated"]
    rows = [_metric(summary, name) for name in TITLES]
    others = [(summary["grouped"], GROUPED, "conflicts as one"), (written, ("top1", "top5"), "free text")]
    for values, names, how in others:
        for name in names if values else ():
            row = _metric(values | {"chance": {name: None}}, name)
            rows.append(row | {"title": f"{row['title']}, {how}"})
    return rows


def _metric(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    low, high = values[f"{name}_interval"]
    return {"title": TITLES[name], "value": values[name], "low": low, "high": high, "chance": values["chance"][name]}


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
        mistakes[signed] += count
        mistakes[named] += count
    worst = sorted(gloss for gloss, _ in mistakes.most_common(CONFUSED))
    if not worst:
        return None
    place = {gloss: number for number, gloss in enumerate(worst)}
    counts = np.zeros((len(worst), len(worst)), np.int64)
    for prediction in results["predictions"]:
        signed, named = prediction["gloss"], prediction["ranking"][0]["gloss"]
        if signed in place and named in place:
            counts[place[signed], place[named]] += 1
    return worst, counts


def _rows(results: Mapping[str, Any], pictures: Mapping[str, Pictures]) -> list[dict[str, Any]]:
    """A row for each gloss, the worst first: its figures, what is near it, its clips that are shown."""
    own: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for prediction in results["predictions"]:
        own[prediction["gloss"]].append(prediction)
    rows = []
    for row in worst_first(results["per_gloss"]):
        shown = [one for one in own[row["gloss"]] if one["clip"] in pictures]
        clips = [_clip(one, pictures[one["clip"]]) for one in shown]
        near = _near(own[row["gloss"]], row["gloss"])
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


def _clip(prediction: Mapping[str, Any], shown: Pictures) -> dict[str, Any]:
    """A clip as the template reads it."""
    ranking, gloss = prediction["ranking"], prediction["gloss"]
    named = ranking[0]["gloss"]
    place = next(number for number, entry in enumerate(ranking, 1) if entry["gloss"] == gloss)
    kinds = {other: "right" if other == gloss else "wrong" for other in shown.weights}
    return {
        "id": prediction["clip"],
        "signer": prediction["signer"],
        "right": named == gloss,
        "gloss": gloss,
        "named": named,
        "place": place,
        "probability": ranking[place - 1]["probability"],
        "unknown": not prediction["answered"],
        "written": prediction["generated"][:1] if "generated" in prediction else [],
        "top": ranking[:5],
        "kinds": kinds,
        "frames": _frames(shown, kinds),
    }


def _frames(shown: Pictures, kinds: Mapping[str, str]) -> list[dict[str, Any]]:
    """Each frame with its bars: those of one clip have one scale, and stand on, or hang from, one line.

    A nat takes no more than the whole height, so that what hardly matters looks so.
    """
    values = [value for weights in shown.weights.values() for value in weights]
    above, below = max(0.0, *values), max(0.0, *(-value for value in values))
    scale = BARS / max(above + below, 1.0)
    line = BARS - below * scale
    width = 100 / len(shown.weights)
    frames = []
    for number, (jpeg, seconds) in enumerate(zip(shown.frames, shown.seconds, strict=True)):
        weights = {gloss: weights[number] for gloss, weights in shown.weights.items()}
        bars = [
            {
                "kind": kinds[gloss],
                "x": width * (place + 0.2),
                "y": line - max(0.0, value) * scale,
                "width": width * 0.6,
                "height": abs(value) * scale,
            }
            for place, (gloss, value) in enumerate(weights.items())
        ]
        source = "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
        frames.append({"source": source, "seconds": seconds, "weights": weights, "bars": bars, "line": line})
    return frames
