"""Figures of an evaluation: as SVG for a page that is light or dark, as pixels for TensorBoard."""

import io
import re
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours in pixels, and the page's names for them. Blue and vermilion are Okabe and Ito's.
INK, SOFT, LINE, PAPER = "#1b1f24", "#5b6470", "#d5dae0", "#ffffff"
RIGHT, WRONG, THIRD = "#0072b2", "#b84a08", "#00795a"
NAMES = {INK: "ink", SOFT: "soft", LINE: "line", PAPER: "paper", RIGHT: "right", WRONG: "wrong", THIRD: "third"}
SIZE = (4.6, 3.1)  # inches: as wide as a phone, so that letters keep their size there
CELL, LABEL = 0.3, 0.078  # inches of the confusion matrix's cells, and of a letter
LETTERS = 15  # of a gloss beside the matrix
SVG, XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
ElementTree.register_namespace("", SVG[1:-1])
ElementTree.register_namespace("xlink", XLINK[1:-1])
POINTS = 200  # of a curve
Curves = Mapping[str, Sequence[tuple[int, float]]]
LOSSES = {"train/loss": ("training", SOFT), "val/loss": ("validation", RIGHT)}
SCORES = {"val/top1": ("top-1", RIGHT), "val/top5": ("top-5", THIRD), "val/mrr": ("mean reciprocal rank", SOFT)}


def curves(curves: Curves, shown: Mapping[str, tuple[str, str]], title: str) -> "Figure | None":
    """Metrics over optimiser steps, of long curves the means of neighbours; None where nothing was logged.

    Args:
        curves: tag -> (step, value).
        shown: tag -> name and colour.
        title: of the vertical axis.
    """
    there = {tag: curves[tag] for tag in shown if curves.get(tag)}
    if not there:
        return None
    from matplotlib.ticker import MaxNLocator

    figure, axes = _axes("optimiser step", title)
    for tag, points in there.items():
        parts = np.array_split(np.array(points, dtype=np.float64), min(POINTS, len(points)))
        steps, values = np.array([part.mean(axis=0) for part in parts]).T
        label, colour = shown[tag]
        marker = "o" if len(steps) < 30 else ""
        axes.plot(steps, values, color=colour, label=label, marker=marker, markersize=4, linewidth=1.6)
    axes.set_xlim(left=0)
    if shown is SCORES:
        axes.set_ylim(-0.02, 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    return figure


def reliability(calibration: Mapping[str, Any]) -> "Figure":
    """Accuracy over confidence, a point for each bin of equally many clips; takes `calibration` of an evaluation."""
    figure, axes = _axes("calibrated confidence in the first gloss", "share that is right")
    axes.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
    confidence, accuracy, _ = zip(*calibration["bins"], strict=True)
    axes.vlines(confidence, confidence, accuracy, color=WRONG, linewidth=1.2, alpha=0.7)
    axes.plot(confidence, accuracy, "o", color=RIGHT, markersize=6, markeredgecolor=PAPER, clip_on=False, zorder=3)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    return figure


def risk(calibration: Mapping[str, Any]) -> "Figure":
    """Share of wrong answers over the share of clips answered, with the threshold; takes the same as `reliability`."""
    coverage, wrong = np.array(calibration["risk_coverage"], dtype=np.float64).T
    figure, axes = _axes("share of clips answered", "share of answers that are wrong")
    axes.plot(coverage, wrong, color=RIGHT, linewidth=1.8)
    if calibration["risk_answered"] is not None:
        here = (calibration["answered_here"], calibration["risk_answered"])
        place = {"xytext": (-6, 10), "textcoords": "offset points", "ha": "right", "zorder": 4}
        axes.plot(*here, "D", color=WRONG, markersize=7, markeredgecolor=PAPER, clip_on=False, zorder=3)
        axes.annotate("threshold", here, color=WRONG, fontsize=9, **place)
    top = min(1.04, max(0.05, 1.15 * float(wrong.max())))
    axes.set(xlim=(0, 1), ylim=(-0.02 * top, top))
    return figure


def confusion(glosses: Sequence[str], counts: NDArray[np.int64]) -> "Figure":
    """A confusion matrix of n glosses, clips int (n, n): what was signed by row, what was named by column."""
    from matplotlib.patches import Rectangle

    count, names = len(glosses), [shortened(gloss) for gloss in glosses]
    letters, side = LABEL * max(map(len, names)), CELL * count
    whole = side + letters + 0.45
    figure, axes = _axes("named", "signed", (whole, whole))
    axes.set_position(((letters + 0.35) / whole, 0.05 / whole, side / whole, side / whole))
    for row, column in np.argwhere(counts).tolist():
        clips = int(counts[row, column])
        colour, shade = (RIGHT if row == column else WRONG), 0.15 + 0.5 * clips / counts.max()
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=colour, alpha=shade, linewidth=0))
        axes.text(column, row, str(clips), ha="center", va="center", fontsize=9, color=INK)
    axes.set(xlim=(-0.5, count - 0.5), ylim=(count - 0.5, -0.5))
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    for axis, turn in ((axes.xaxis, 90), (axes.yaxis, 0)):
        axis.set_ticks(range(count), names, rotation=turn, parse_math=False)  # a `$` in a gloss is no formula
        axis.set_ticks(np.arange(count + 1) - 0.5, minor=True)
    axes.grid(False)
    axes.grid(which="minor", color=LINE, linewidth=0.6)
    axes.tick_params(which="both", length=0)
    return figure


def shortened(gloss: str) -> str:
    """A gloss that fits beside a matrix, and that XML can hold.

    >>> shortened("a gloss of very many letters"), shortened("a\\tb")
    ('a gloss of ver…', 'a�b')
    """
    gloss = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in gloss)
    return gloss if len(gloss) <= LETTERS else gloss[: LETTERS - 1] + "…"


def _axes(across: str, up: str, size: tuple[float, float] = SIZE) -> "tuple[Figure, Axes]":
    """A new figure and its axes in the page's colours."""
    from matplotlib.figure import Figure  # takes a second to import

    figure = Figure(figsize=size, layout="constrained" if size == SIZE else None)
    axes = figure.add_subplot()
    axes.set_xlabel(across, color=SOFT, fontsize=9)
    axes.set_ylabel(up, color=SOFT, fontsize=9)
    axes.tick_params(colors=INK, labelsize=9, length=3, color=LINE)
    axes.grid(color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    return figure, axes


def svg(figure: "Figure", name: str) -> str:
    """A figure as an SVG element for an HTML page.

    Its text is text, in the page's font; its colours are the page's, `var(--ink)` for example; its ids begin with
    `name`, so that no other figure of the page has them. It is hidden from screen readers: the page says what it shows.
    """
    import matplotlib

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        root = ElementTree.fromstring(_saved(figure, format="svg", transparent=True).getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{SVG}metadata", f"{SVG}style"):  # the style would be the whole page's
                parent.remove(child)
    for element in root.iter():
        element.attrib.update({key: _renamed(key, value, name) for key, value in element.items()})
    root.attrib |= {"class": "figure", "aria-hidden": "true", "focusable": "false"}
    return ElementTree.tostring(root, encoding="unicode")


def _renamed(key: str, value: str, name: str) -> str:
    """An attribute with the page's colours and font, and with ids that are this figure's."""
    if key == "id":
        return f"{name}-{value}"
    if key in ("clip-path", f"{XLINK}href"):
        return re.sub(r"^#|(?<=url\()#", f"#{name}-", value)
    if key == "style":
        value = re.sub(r"font-family:[^;]*;?", "", value)
        for colour, word in NAMES.items():
            value = value.replace(colour, f"var(--{word})")
    return value


def pixels(figure: "Figure") -> NDArray[np.uint8]:
    """A figure as uint8 (H, W, 3) on white."""
    return np.array(Image.open(_saved(figure, format="png", dpi=130)).convert("RGB"))


def _saved(figure: "Figure", **options: object) -> io.BytesIO:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a gloss may be of any writing system
        figure.savefig(file, **options)  # pyright: ignore[reportArgumentType]
    return file
