"""A picture of what accuracy costs: one point a run, one colour and marker a setting."""

import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from slr.core.files import replacing
from slr.evaluation.compare.settings import Setting
from slr.evaluation.compare.tables import PARTS, TITLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's colours, which people with colour blindness tell apart, without the yellow that is too light on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h", "p")
GREY = "#b0b0b0"
NAMED = 30  # settings with a colour and a name; those that rank lower are grey
PANELS = 6
WIDE = 10  # largest over smallest cost from which on the axis is logarithmic
LABEL = 44  # characters of a line of the legend
AXES, LEFT, BELOW, ABOVE = 7.0, 0.8, 0.6, 0.3  # inches
LETTER, LINE = 0.078, 0.2  # inches of the legend


def draw(path: Path, groups: Sequence[Sequence[Setting]], part: str, metric: str) -> None:
    """Write a PNG, whole or not at all, with a panel for each group of comparable runs, `PANELS` at most.

    Args:
        path: of the file; its folder is there.
        groups: settings of each group, best first.
        part: val or test.
        metric: top1, top5 or mrr.
    """
    from matplotlib.figure import Figure  # takes a second to import

    panels = groups[:PANELS]
    legends = [[_wrapped(setting) for setting in settings[: NAMED + 1]] for settings in panels]
    heights = [max(3.8, LINE * (2 + sum(map(len, legend)))) for legend in legends]
    longest = max(len(line) for legend in legends for lines in legend for line in lines)
    width = LEFT + AXES + 0.7 + LETTER * max(longest, len("best validation first"))
    top = whole = sum(heights) + (BELOW + ABOVE) * len(panels)
    figure = Figure(figsize=(width, whole))
    for number, (settings, height) in enumerate(zip(panels, heights, strict=True), 1):
        bottom = top - ABOVE - height
        axes = figure.add_axes((LEFT / width, bottom / whole, AXES / width, height / whole))
        _panel(axes, settings, part, metric)
        if len(groups) > 1:
            axes.set_title(f"group {number}, not comparable with the others", fontsize=10, loc="left")
        top = bottom - BELOW
    _save(figure, path)


def _save(figure: "Figure", path: Path) -> None:
    with replacing(path) as part, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a setting may be of any writing system
        figure.savefig(part, format="png", dpi=130)


def _panel(axes: "Axes", settings: Sequence[Setting], part: str, metric: str) -> None:
    for number, setting in reversed(list(enumerate(settings))):  # the best lies on top
        _points(axes, setting, number, part, metric)
    costs = [run.seconds for setting in settings for run in setting.runs if run.seconds]
    if costs and max(costs) > WIDE * min(costs):
        axes.set_xscale("log")
        _plain_numbers(axes)
    axes.set_xlabel("seconds of a run")
    axes.set_ylabel(f"{PARTS[part]} {TITLES[metric]}, with 95 % intervals")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    _legend(axes)


def _plain_numbers(axes: "Axes") -> None:
    """200 and 1,000 instead of powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:,g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _legend(axes: "Axes") -> None:
    handles, labels = axes.get_legend_handles_labels()
    legend = axes.legend(
        handles[::-1],
        labels[::-1],
        loc="upper left",
        bbox_to_anchor=(1.01, 1.02),
        frameon=False,
        fontsize=9,
        title="best validation first",
        title_fontsize=9,
        alignment="left",
    )
    for text in legend.get_texts():
        text.set_parse_math(False)  # a `$` in a setting is no formula


def _points(axes: "Axes", setting: Setting, number: int, part: str, metric: str) -> None:
    costs, scores = [], []
    for run in setting.runs:
        if run.seconds:
            costs.append(run.seconds)
            scores.append(getattr(run, part)[metric])
    named = number < NAMED
    label = "\n".join(_wrapped(setting)) if named else ("lower ranks" if number == NAMED else "_")
    colour = COLOURS[number % len(COLOURS)] if named else GREY
    axes.errorbar(
        costs,
        [score.value for score in scores],
        yerr=[
            [0 if score.low is None else max(0, score.value - score.low) for score in scores],
            [0 if score.high is None else max(0, score.high - score.value) for score in scores],
        ],
        label=label,
        fmt=MARKERS[number % len(MARKERS)] if named else ".",
        color=colour,
        ecolor=f"{colour}70",  # a point is seen through the bars of another
        markersize=7.5,
        markeredgecolor="white",
        markeredgewidth=0.8,
        elinewidth=1.4,
        capsize=2.5,
    )


def _wrapped(setting: Setting) -> list[str]:
    return textwrap.wrap(setting.label, LABEL, max_lines=4, placeholder=" …")
