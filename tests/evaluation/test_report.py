"""report.html: what it says, that it says it of any text whatever, and how a browser shows it."""

import base64
import io
import json
import re
import time
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from browser import browser
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from slr import factory
from slr.core import tensorboard
from slr.core.files import write_json
from slr.core.run_folder import RunFolder
from slr.data.coverage import Coverage
from slr.data.manifest import Clip
from slr.evaluation.free_text import exact_match
from slr.evaluation.report import page as pages
from slr.evaluation.report.clips import choose, jpeg
from slr.evaluation.report.page import confusion, page, report
from slr.evaluation.results import TITLES, Context, evaluation
from slr.predict import calibration
from slr.predict.results import Seen

VOCABULARY = [
    '<script>document.title = "taken"</script>',
    '"><img src=x onerror="document.title = 1">',
    "</style></table></script><b>bold",
    "{{ 7 * 7 }}{% raw %}",
    r"$\frac{1}{2}$ #0072b2 ' id=\"x",
    "日本 \u202eright to left",
    "a\tb\x08",
    "tea & 'milk' javascript:alert(1)",
    "a very long gloss " * 12,
    "x" * 200,
]
ABOUT = {"run": "run", "written": "2026-01-01", "settings": {}, "hashes": {}, "versions": {}}
CURVES = {
    "train/loss": [(step, 3.0 / (step + 1)) for step in range(500)],
    "val/loss": [(249, 1.0), (499, 0.5)],
    "val/top1": [(249, 0.25), (499, 0.75)],
}
FRAMES, SIDE = 3, 24


def evaluated(count=70, seed=0, certain=4.0, calibrated=True, signers=25):
    """Clips of `VOCABULARY`, rankings of them made up by a seed, and what they come to."""
    rng = np.random.default_rng(seed)
    glosses = rng.integers(len(VOCABULARY) - 1, size=count)  # the last one has no clip
    scores = rng.normal(size=(count, len(VOCABULARY)))
    scores[np.arange(count), glosses] += certain * rng.random(count)
    log_probability = (scores - np.log(np.exp(scores).sum(1, keepdims=True)) - 0.1).astype(np.float32)
    clips = [
        Clip(
            f"<b>{n}</b>",
            f"clips/{n}.mp4",
            VOCABULARY[g],
            30,
            25.0,
            SIDE,
            SIDE,
            "",
            "",
            "",
            f"<i>s{n % signers}",
            None,
            None,
        )
        for n, g in enumerate(glosses)
    ]
    states = rng.normal(size=(count, 4)).astype(np.float32)
    familiar, predictions = (
        calibration.fit_familiarity(states, glosses),
        calibration.Predictions(log_probability, states),
    )
    learned = calibration.fit(predictions, glosses, familiar, 1.5) if calibrated else None
    groups = [VOCABULARY[:2]] if calibrated else []
    about = {"part": "test", "checkpoint": "best", "data": "d", "split": "signer"}
    context = Context(about, Coverage("data set", count, count + 3, ["a", "b", "c"]), groups, learned)
    return clips, evaluation(clips, VOCABULARY, predictions, context)


def seen(number, glosses):
    """Noise as a clip."""
    rng = np.random.default_rng(number)
    weights = {gloss: rng.normal(size=FRAMES).tolist() for gloss in glosses}
    return Seen(rng.integers(0, 256, (FRAMES, SIDE, SIDE, 3), dtype=np.uint8), [0.1, 0.5, 0.9], weights)


def shown(results, most=20):
    """The chosen clips as the page wants them."""
    found = {}
    for number in choose(results, most):
        one = results["predictions"][number]
        found[one["clip"]] = seen(number, {one["ranking"][0]["gloss"]: 0, one["gloss"]: 0})
    return found


@pytest.fixture(scope="module")
def made():
    clips, results = evaluated()
    results["generated"] = exact_match(
        [[one["gloss"]] if number % 2 else ["<q>", "y"] for number, one in enumerate(results["predictions"])],
        [one["gloss"] for one in results["predictions"]],
        VOCABULARY,
    )
    for one in results["predictions"]:
        one["generated"] = ["<q>", "y"]
    settings = {"lora.r": 8, "prompt": "<em>"}
    about = ABOUT | {
        "run": "<u>run</u>",
        "settings": settings,
        "hashes": {"data": "ab" * 32},
        "versions": {"torch": "2"},
    }
    return clips, results, page(results, shown(results), CURVES, about)


class Elements(HTMLParser):
    """Every element of a page with its attributes."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def of(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


def test_texts_stay_texts(made):
    elements = Elements(made[2])
    counts = Counter(tag for tag, _ in elements.found)
    assert (counts["script"], counts["style"], counts["b"], counts["i"], counts["u"], counts["em"]) == (
        1,
        1,
        0,
        0,
        0,
        0,
    )
    assert not [key for _, attributes in elements.found for key in attributes if key.startswith("on")]
    places = [attributes.get(key) or "" for _, attributes in elements.found for key in ("src", "href", "xlink:href")]
    assert {place.partition(",")[0].partition("-")[0] for place in places if not place.startswith("#")} == {
        "",
        "data:image/jpeg;base64",
        "data:",
    }
    ids = [attributes["id"] for _, attributes in elements.found if "id" in attributes]
    assert [name for name, count in Counter(ids).items() if count > 1] == []


def test_every_picture_is_a_jpeg_with_words_for_it_and_none_is_missing(made):
    images = Elements(made[2]).of("img")
    assert len(images) == FRAMES * len(shown(made[1]))
    for image in images:
        with Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2]))) as picture:
            assert (picture.format, picture.size) == ("JPEG", (SIDE, SIDE))
        assert re.fullmatch(r"Frame [123] of 3, at 0\.[159]0 seconds", image["alt"])


def test_bars_are_as_high_as_their_frames_weigh(made):
    _, results, text = made
    for number in choose(results, 20):
        one = results["predictions"][number]
        strip = text.partition(f'aria-label="clip &lt;b&gt;{one["clip"][3:-4]}&lt;/b&gt;"')[2].partition("</article>")[
            0
        ]
        rectangles = [
            attributes
            for tag, attributes in Elements(strip).found
            if tag == "rect" and attributes["class"] in ("right", "wrong")
        ]
        glosses = dict.fromkeys([one["ranking"][0]["gloss"], one["gloss"]])
        weights = [list(row) for row in zip(*seen(number, glosses).weights.values(), strict=True)]
        weights = [weight for frame in weights for weight in frame]
        heights = [float(rectangle["height"]) for rectangle in rectangles]
        span = max(1.0, max([0, *weights]) - min([0, *weights]))
        np.testing.assert_allclose(heights, [40 * abs(weight) / span for weight in weights], atol=0.01)
        tops = [float(rectangle["y"]) for rectangle in rectangles]
        lines = [
            top + height if weight > 0 else top for top, height, weight in zip(tops, heights, weights, strict=True)
        ]
        np.testing.assert_allclose(lines, lines[0], atol=0.03)  # all stand on one line, or hang from it
        assert min(tops) >= 0
        assert max(top + height for top, height in zip(tops, heights, strict=True)) <= 40.02


def test_the_matrix_counts_the_glosses_with_most_mistakes(made):
    _, results, _ = made
    glosses, counts = confusion(results)
    pairs = Counter((one["gloss"], one["ranking"][0]["gloss"]) for one in results["predictions"])
    assert glosses == sorted(set(glosses))
    assert counts.tolist() == [[pairs[true, named] for named in glosses] for true in glosses]
    assert counts.sum() - counts.trace() > 10


def test_clips_are_chosen_from_the_worst_glosses_and_no_more_than_fit():
    _, results = evaluated(count=200, seed=1)
    top1 = {row["gloss"]: row["top1"] for row in results["per_gloss"]}
    for most in (1, 7, 1000):
        chosen = choose(results, most)
        ones = [results["predictions"][number] for number in chosen]
        assert len(chosen) == len(set(chosen)) <= most
        assert all(top1[one["gloss"]] <= top1[other["gloss"]] for one, other in pairwise(ones))
    wrong = Counter(one["gloss"] for one in ones if one["gloss"] != one["ranking"][0]["gloss"])
    right = Counter(one["gloss"] for one in ones if one["gloss"] == one["ranking"][0]["gloss"])
    assert set(wrong.values()) == {2}
    assert set(right.values()) == {1}
    for one in ones:
        rivals = [
            other["ranking"][0]["probability"]
            for other in results["predictions"]
            if other["gloss"] == one["gloss"]
            and (other["ranking"][0]["gloss"] == other["gloss"]) == (one["ranking"][0]["gloss"] == one["gloss"])
        ]
        assert one["ranking"][0]["probability"] >= sorted(rivals)[-2:][0]


def test_a_page_of_nothing_but_right_clips_and_without_anything_else_is_whole():
    _, results = evaluated(count=30, certain=0.0, calibrated=False)
    for one in results["predictions"]:
        one["ranking"].sort(key=lambda entry, gloss=one["gloss"]: entry["gloss"] != gloss)
    for row in results["per_gloss"]:
        row["confused_with"] = []
    results["per_signer"] = []
    text = page(results, {}, {}, ABOUT)
    assert "Every clip was named correctly" in text
    assert 'id="signers"' not in text
    assert 'id="curves"' not in text
    assert "<figure" not in text


def test_a_page_of_two_thousand_glosses_stays_small():
    """Of real clips, a picture has 3 kB on average; noise of more stands for them."""
    rng = np.random.default_rng(0)
    names = [f"gloss {number}" for number in range(2000)]
    _, results = evaluated()
    summary = results["summary"] | {"glosses": 2000, "n": 4000}
    rows, predictions = [], []
    for number, gloss in enumerate(names):
        other = names[number - 1]
        ranking = [
            {"gloss": g, "log_probability": -1.0 - p, "probability": 0.4 - p} for p, g in ((0, other), (0.1, gloss))
        ]
        row = {
            "gloss": gloss,
            "n": 2,
            "named": 2,
            "top1": 0.0,
            "top5": 1.0,
            "mrr": 0.5,
            "precision": 0.0,
            "recall": 0.0,
        }
        rows.append(row | {"f1": 0.0, "confused_with": [[other, 2]]})
        predictions += [
            {"clip": f"{number} {n}", "gloss": gloss, "signer": None, "answered": True, "ranking": ranking}
            for n in range(2)
        ]
    results |= {"summary": summary, "per_gloss": rows, "predictions": predictions}
    frames = rng.integers(0, 256, (8, 80, 80, 3), dtype=np.uint8)
    chosen = choose(results, pages.FRAMES // 8)
    shown = {predictions[n]["clip"]: Seen(frames, [0.1] * 8, {names[0]: [1.0] * 8}) for n in chosen}
    assert all(4000 < len(jpeg(frame)) < 5000 for frame in frames)
    text = page(results, shown, CURVES, ABOUT)
    assert text.count('<tbody class="gloss"') == 2000
    assert "1,960 glosses found no room" in text
    assert len(text.encode()) < 6e6


def luminance(colour):
    """Relative luminance of `#rrggbb` as WCAG 2.2 defines it."""
    shares = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_letters_stand_out_from_their_ground_in_light_and_dark():
    """4.5 to 1, WCAG 2.2's success criterion 1.4.3."""
    schemes = re.findall(r":root \{(.*?)\}", (pages.HERE / "page.css").read_text(encoding="utf-8"), re.DOTALL)
    assert len(schemes) == 2
    for scheme in schemes:
        colours = dict(re.findall(r"--(\w+): (#\w{6});", scheme))
        for ground in ("paper", "ground"):
            for letters in ("ink", "soft", "right", "wrong", "third"):
                light, dark = sorted((luminance(colours[ground]), luminance(colours[letters])), reverse=True)
                assert (light + 0.05) / (dark + 0.05) >= 4.5, (ground, letters)


class Noise:
    """A recognizer that shows noise."""

    def show(self, clips, glosses, title, folder):
        self.asked = (list(clips), glosses)
        for number, names in enumerate(glosses):
            yield seen(number, names)


def test_a_report_lies_whole_in_the_runs_folder_and_its_figures_in_tensorboard(tmp_path):
    clips, results = evaluated()
    run = RunFolder(tmp_path / "data" / "a run's")
    write_json(run.config, {"frames": FRAMES, "data": "/somewhere/secret", "lora": {"r": 8}})
    tensorboard.add_results(run.root, "val", {"top1": 0.25, "loss": 2.0}, 4)
    tensorboard.add_results(run.root, "val", {"top1": 0.5}, 9)
    shower = Noise()
    for _ in range(2):  # again, and nothing is there twice
        path = report(shower, clips, results, run)
    assert [clip.id for clip in shower.asked[0]] == [results["predictions"][n]["clip"] for n in choose(results, 213)]
    assert path == run.evaluation / "report.html"
    assert sorted(file.name for file in run.evaluation.iterdir()) == ["report.html"]
    text = path.read_text(encoding="utf-8")
    assert "data/a run&#39;s" in text
    assert "lora.r" in text
    assert "secret" not in text
    log = EventAccumulator(str(run.root)).Reload()
    assert sorted(log.Tags()["images"]) == [f"evaluation/test/{name}" for name in ("confusion", "reliability", "risk")]
    for tag in log.Tags()["images"]:
        [image] = log.Images(tag)
        with Image.open(io.BytesIO(image.encoded_image_string)) as picture:
            assert min(picture.size) > 300
            assert len(picture.convert("L").getcolors()) > 20
        assert image.step == 9
    read = {tag: [(event.step, event.value) for event in log.Scalars(tag)] for tag in log.Tags()["scalars"]}
    assert tensorboard.scalars(run.root) == read == {"val/top1": [(4, 0.25), (9, 0.5)], "val/loss": [(4, 2.0)]}


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture(scope="module")
def written(made, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(made[2], encoding="utf-8")
    return path


LOADED = "Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth, () => 0)))"
ROWS = "[...document.querySelectorAll('tbody.gloss')].filter(row => !row.hidden)"
CELLS = f"{ROWS}.map(body => [...body.rows[0].cells].map(cell => cell.textContent.trim()))"
WIDTH = "document.documentElement.scrollWidth"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_all_of_it_without_complaint(tab, written, made, width, scheme):
    tab.open(written, width, scheme)
    assert tab.ask("document.querySelectorAll('details').forEach(one => { one.open = true })") is None
    assert tab.ask(LOADED) == [SIDE] * FRAMES * len(shown(made[1]))
    assert tab.ask(WIDTH) <= width
    assert tab.ask("document.title").endswith("evaluation")
    assert tab.ask("[...document.querySelectorAll('td, th')].every(cell => cell.closest('table'))")
    assert tab.ask("[...document.querySelectorAll('th')].every(cell => cell.scope)")
    assert tab.complaints() == []
    assert [place for place in tab.requests() if not place.startswith("data:")] == [written.absolute().as_uri()]
    dark = tab.ask("getComputedStyle(document.body).backgroundColor") == "rgb(17, 20, 23)"
    assert dark == (scheme == "dark")


def test_a_browser_reads_the_glosses_as_they_are(tab, written, made):
    tab.open(written, 1280, "light")
    cells = {row[0]: row for row in tab.ask(CELLS)}
    assert set(cells) == {row["gloss"].strip() for row in made[1]["per_gloss"]}
    for row in made[1]["per_gloss"]:
        told = [row[key] for key in ("top1", "top5", "mrr", "precision", "recall", "f1")]
        expected = [str(row["n"]), *("–" if value is None else f"{value:.3f}" for value in told)]
        assert cells[row["gloss"].strip()][1:8] == expected


def test_metrics_have_their_intervals(tab, written, made):
    tab.open(written, 1280, "light")
    table = (
        "[...document.querySelectorAll('#summary tbody tr')].map(row => [...row.cells].map(c => c.textContent.trim()))"
    )
    cells = {row[0]: row[1:] for row in tab.ask(table)}
    summary = made[1]["summary"]
    for name, title in TITLES.items():
        low, high = summary[f"{name}_interval"]
        expected = [f"{summary[name]:.3f}", f"{low:.3f} – {high:.3f}", "", f"{summary['chance'][name]:.3f}"]
        assert cells[title] == expected
    assert cells["top-1, conflicts as one"][0] == f"{summary['grouped']['top1']:.3f}"
    assert cells["top-5, free text"][0] == "0.500"
    assert len(cells) == 14


def test_clips_say_what_became_of_them(tab, written, made):
    tab.open(written, 1280, "light")
    told = tab.ask("[...document.querySelectorAll('.clip')].map(clip => [clip.ariaLabel, clip.textContent])")
    assert len(told) == len(shown(made[1]))
    ones = {f"clip {one['clip']}": one for one in made[1]["predictions"]}
    for label, text in told:
        one, text = ones[label], " ".join(text.split())
        first, true = one["ranking"][0], next(entry for entry in one["ranking"] if entry["gloss"] == one["gloss"])
        right = first["gloss"] == one["gloss"]
        place = one["ranking"].index(true) + 1
        assert ("✓ right" in text, "✗ named" in text) == (right, not right)
        assert (f"rank {place} with uncalibrated probability {true['probability']:.3f}" in text) == (not right)
        assert f"signer {one['signer']}" in text
        assert ("called unknown" in text) == (not one["answered"])
        assert all(f"{entry['probability']:.3f}" in text for entry in one["ranking"][:5])
    assert not all(one["answered"] for one in made[1]["predictions"])


def test_rows_are_sorted_filtered_and_unfolded(tab, written, made):
    tab.open(written, 1280, "light")
    names = [row["gloss"].strip() for row in made[1]["per_gloss"]]
    worst = [row[2] for row in tab.ask(CELLS) if row[2] != "–"]
    assert worst == sorted(worst)
    for column in (1, 5):
        for turn in ("ascending", "descending"):
            tab.ask(f"document.querySelectorAll('#gloss-table thead button')[{column}].click()")
            values = [float(row[column]) for row in tab.ask(CELLS) if row[column] != "–"]
            assert values == sorted(values, reverse=turn == "descending")
            assert tab.ask("[...document.querySelectorAll('[aria-sort]')].map(e => e.ariaSort)") == [turn]
    tab.ask("filter.value = '<SCRIPT'; filter.dispatchEvent(new Event('input'))")
    assert names[0] in [row[0] for row in tab.ask(CELLS)]
    assert tab.ask("count.value") == f"{len(tab.ask(CELLS))} of {len(names)} glosses"
    tab.ask("filter.value = 'no such'; filter.dispatchEvent(new Event('input'))")
    assert tab.ask(CELLS) == []
    tab.ask("filter.value = ''; which.value = 'mistakes'; which.dispatchEvent(new Event('change'))")
    wrong = {row["gloss"].strip() for row in made[1]["per_gloss"] if row["confused_with"]}
    assert {row[0] for row in tab.ask(CELLS)} == wrong
    tab.ask("unfold.click()")
    assert tab.ask("[...document.querySelectorAll('#gloss-table details')].every(one => one.open)")
    assert tab.complaints() == []


@pytest.mark.parametrize(
    ("deed", "directive"),
    [
        ("const s = document.createElement('script'); s.textContent = '1'; document.body.append(s)", "script-src-elem"),
        ("document.body.insertAdjacentHTML('beforeend', '<a onclick=1>')", "script-src-attr"),
        ("new Image().src = 'https://example.invalid/x.png'", "img-src"),
        ("fetch('https://example.invalid').catch(() => 0)", "connect-src"),
    ],
)
def test_the_page_may_not_run_or_load_anything_else(tab, written, deed, directive):
    tab.open(written, 1280, "light")
    refused = f"new Promise(done => {{ onsecuritypolicyviolation = e => done(e.effectiveDirective); {deed} }})"
    assert tab.ask(refused) == directive


def test_without_scripts_everything_is_there_but_the_controls(tab, written, made):
    tab.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        tab.open(written, 390, "light")
        root = tab.send("DOM.getDocument", depth=1)["root"]["nodeId"]
        found = {}
        for selector in ("tbody.gloss", "img", "#controls[hidden]", "thead button"):
            nodes = tab.send("DOM.querySelectorAll", nodeId=root, selector=selector)["nodeIds"]
            found[selector] = len(nodes)
    finally:
        tab.send("Emulation.setScriptExecutionDisabled", value=False)
    assert list(found.values()) == [len(made[1]["per_gloss"]), FRAMES * len(shown(made[1])), 1, 0]


def test_the_demos_report_is_made_in_a_minute_and_opens(demo, tmp_path):
    from slr.config.saved_run import open_run
    from slr.data.split import read_split
    from slr.predict import recognizer as predict

    folder, config, _ = open_run(demo)
    clips = factory.clips(config)
    results = json.loads((folder.evaluation / "evaluation_results.json").read_text(encoding="utf-8"))
    recognizer = predict.load(demo)
    started = time.process_time()
    path = report(recognizer, read_split(folder.split, clips).select(clips, "test"), results, folder)
    seconds = time.process_time() - started
    assert seconds < 60
    chosen = choose(results, pages.FRAMES // config.frames)
    assert len(chosen) >= 16
    with browser(tmp_path) as tab:
        for width in (390, 1280):
            tab.open(path, width, "light")
            assert tab.ask(LOADED) == [160] * config.frames * len(chosen)
            assert tab.ask(WIDTH) <= width
            assert tab.complaints() == []
