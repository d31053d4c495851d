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

# Okabe & Ito's colours, which people with colour blindness tell apart, without the yellow that is too light on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "h", "p")
GREY = "#b0b0b0"
NAMED = 30  # settings with a colour and a name; those that rank lower are grey
PANELS = 6
WIDE = 10  # largest over smallest cost from which on the axis is logarithmic
LABEL = 44  # characters of a line of the legend
WIDTH, HEIGHT, LINE = 9.0, 4.8, 0.25  # inches: a panel, its least height, and a line of the legend


def draw(path: Path, groups: Sequence[Sequence[Setting]], part: str, metric: str) -> None:
    """Write a PNG, whole or not at all, with a panel for each group of comparable runs, `PANELS` at most.

    Args:
        groups: settings of each group, best first.
        part, metric: what the vertical axis shows, such as test and top1.
    """
    from matplotlib.figure import Figure  # takes a second to import

    panels = groups[:PANELS]
    lines = [[line for setting in settings[: NAMED + 1] for line in _wrapped(setting)] for settings in panels]
    heights = [max(HEIGHT, LINE * (3 + len(own))) for own in lines]
    figure = Figure(figsize=(WIDTH, sum(heights)))
    grid = figure.subplots(len(panels), squeeze=False, height_ratios=heights, gridspec_kw={"hspace": 0.25})
    for number, (settings, axes) in enumerate(zip(panels, grid[:, 0], strict=True), 1):
        _panel(axes, settings, part, metric)
        if len(groups) > 1:
            axes.set_title(f"group {number}, not comparable with the others", fontsize=10, loc="left")
    with replacing(path) as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a setting may be of any writing system
        figure.savefig(file, format="png", dpi=130, bbox_inches="tight")  # with the legends beside the axes


def _panel(axes: "Axes", settings: Sequence[Setting], part: str, metric: str) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    for number, setting in reversed(list(enumerate(settings))):  # the best lies on top
        _points(axes, setting, number, part, metric)
    costs = [run.seconds for setting in settings for run in setting.runs if run.seconds]
    if costs and max(costs) > WIDE * min(costs):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:,g}")  # 200 and 1,000 instead of powers of ten
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel="seconds of a run", ylabel=f"{PARTS[part]} {TITLES[metric]}, with 95 % intervals")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    legend = axes.legend(
        reverse=True,
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
    runs = [run for run in setting.runs if run.seconds]
    scores = [getattr(run, part)[metric] for run in runs]
    named = number < NAMED
    label = "\n".join(_wrapped(setting)) if named else ("lower ranks" if number == NAMED else "_")
    colour = COLOURS[number % len(COLOURS)] if named else GREY
    axes.errorbar(
        [run.seconds for run in runs],
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
