"""The model card of an exported recognizer: data, protocol, metrics with intervals, terms and limits."""

import json
from collections.abc import Mapping
from typing import Any

from slr.config import schema
from slr.predict.bundle import Exported

# Of the data; they bind what was trained on them too.
TERMS = {
    "wlasl": "WLASL is under C-UDA 1.0: academic and computational use only, no commercial use, no redistribution of "
    "its videos. Recordings belong to those who made them.",
    "synthetic": "The clips were drawn by slr: no terms beyond slr's MIT licence.",
    "folder": "The clips were the user's own. slr does not know their terms: say here what they allow.",
}
FIGURES = {"top1": "top-1", "top5": "top-5", "mrr": "mean reciprocal rank", "top1_per_class": "top-1 per class"}


def card(exported: Exported, result: Mapping[str, Any], parity: Mapping[str, Any]) -> str:
    """The card as Markdown, with the header that model hubs read.

    Args:
        exported: what is described.
        result: the run's `result.json`.
        parity: of `slr.export.export.compare_forms`.
    """
    config, test = exported.config, result["test"]
    base = config.model.checkpoint
    head = {
        "library_name": "peft" if exported.kind == "adapter" else "transformers",
        "base_model": base,
        "license": "other",
        "tags": ["sign-language-recognition", "slr", config.dataset.name],
    }
    lines = ["---", *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in head.items()), "---", ""]
    lines += [f"# {len(exported.vocabulary)} signs by {config.model.name}", ""]
    lines += [_what(exported), "", "## Use", "", *_use(exported), ""]
    lines += ["## Figures", "", *_figures(test), "", *_protocol(config, result), ""]
    lines += ["## Parity", "", *_parity(parity), ""]
    lines += ["## Data and terms", "", _terms(config.dataset), "", f"The base model, {base}, has terms of its own.", ""]
    lines += ["## Limits", "", *_limits(test), ""]
    return "\n".join(lines)


def _terms(dataset: schema.Dataset) -> str:
    if isinstance(dataset, schema.Folder) and dataset.layout != "labels":
        return (
            f"The clips are of {dataset.layout}, whose terms bind: see docs/new_dataset.md of slr, and your own copy."
        )
    return TERMS[dataset.name]


def _what(exported: Exported) -> str:
    config = exported.config
    way = f"LoRA (rank {config.lora.r}) on {config.lora.scope}" if config.lora.scope != "none" else "merged weights"
    return (
        f"Names which of {len(exported.vocabulary)} isolated signs a short clip shows, by the exact probability of "
        f"each gloss. {way}, {config.frames} frames a clip, base model {config.model.checkpoint}"
        f"{f' at {config.model.version}' if config.model.version else ''}."
    )


def _use(exported: Exported) -> list[str]:
    plain = (
        "`PeftModel.from_pretrained(base, folder)` puts the adapter on the base model"
        if exported.kind == "adapter"
        else "`InternVLForConditionalGeneration.from_pretrained(folder)` loads the weights"
    )
    return [
        "```python",
        "import slr",
        "",
        'slr.load("this folder").rank("clip.mp4", top=5)  # [(gloss, probability), …], best first',
        "```",
        "",
        f"{plain}; the ranking over the vocabulary, its calibration and its sampling of frames are slr's.",
    ]


def _figures(test: Mapping[str, Any]) -> list[str]:
    rows = ["| test part | value | 95 % interval | chance | n |", "|---|---|---|---|---|"]
    for name, title in FIGURES.items():
        low, high = test[f"{name}_interval"]
        chance = test["chance"][name]
        rows.append(f"| {title} | {test[name]:.3f} | {low:.3f} – {high:.3f} | {chance:.3f} | {test['n']} |")
    return rows


def _protocol(config: schema.Config, result: Mapping[str, Any]) -> list[str]:
    test, hashes = result["test"], result["hashes"]
    covered = test["coverage"]
    return [
        f"- data {test['data']}: {covered['clips']:,} of {covered['listed']:,} clips listed for the {covered['of']}",
        f"- split {test['split']}, hash {hashes['split']}; trained on the train part alone, chosen by "
        f"{config.checkpoint.monitor} on the val part",
        f"- vocabulary hash {hashes['vocabulary']}, code hash {hashes['code']}, seed {config.seed}",
    ]


def _parity(parity: Mapping[str, Any]) -> list[str]:
    rows = [f"Against the run's own ranking, {parity['n']} clips of the {parity['part']} part:", ""]
    rows += ["| form | same first gloss | largest change of a log-probability |", "|---|---|---|"]
    return rows + [f"| {row['form']} | {row['agreement']:.1%} | {row['largest']:.3g} |" for row in parity["rows"]]


def _limits(test: Mapping[str, Any]) -> list[str]:
    seen = f"{test['signers']} people" if test["signers"] else "people whom the data do not name"
    return [
        "- Isolated signs in short clips only; it translates no sentences and is no interpreter.",
        f"- Its figures are of {seen}; expect less of others, and measure it before you rely on it.",
        "- A sign outside the vocabulary should be called unknown, and sometimes is not.",
    ]
