"""What storing features in fewer bits changes: `python benchmarks/features.py run=outputs/…`.

Ranks the val part of a run from features as computed, and from the same after each way of storing them. Prints how far
features, each clip's loss (token objective, no smoothing) and log-probabilities stray at most, and how many clips keep
their first gloss.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from slr import arguments, assemble
from slr.data.collate import collate_training
from slr.data.datamodule import ClipData
from slr.data.split import read_split
from slr.errors import explained
from slr.features import ENCODINGS, decode, encode
from slr.model.ranking import rank
from slr.model.vlm import answer_loss, hidden_states
from slr.recognizer import Recognizer
from slr.run import open_run

USAGE = "python benchmarks/features.py run=FOLDER [limit=N]"


def main() -> None:
    """Measure and print."""
    words = arguments.parse(sys.argv[1:], {"run": None, "limit": "1000"}, USAGE)
    run = Path(words["run"])
    folder, config, vocabulary = open_run(run)
    clips = assemble.clips(config)
    chosen = read_split(folder.split, clips).select(clips, "val")[: arguments.whole_number("limit", words["limit"], 1)]
    machine = assemble.machine(config)
    inputs = assemble.inputs(config)
    recognizer = assemble.recognizer(config, vocabulary, machine, inputs)
    recognizer.restore(folder.checkpoint("best"))
    recognizer.eval()
    data = assemble.data(config, assemble.prepared(config), {}, vocabulary, machine, inputs)
    found = {
        dtype: [stray(recognizer, data, [clip], dtype) for clip in tqdm(chosen, desc=dtype)] for dtype in ENCODINGS
    }
    print(f"{len(chosen)} clips   features   loss      log-probability   same first gloss")
    for dtype, rows in found.items():
        worst = {name: max(row[name] for row in rows) for name in ("features", "loss", "ranking")}
        same = sum(row["first"] for row in rows)
        print(f"{dtype:<12} {worst['features']:<10.2%} {worst['loss']:<9.1e} {worst['ranking']:<17.1e} {same:.0f}")


@torch.no_grad()
def stray(recognizer: Recognizer, data: ClipData, clips: list, dtype: str) -> Mapping[str, float]:
    """How far storing one clip's features in `dtype` takes them, its loss and its ranking from what they were."""
    sample = data.ranking_set(clips)[0, 0]
    features = recognizer.encode(torch.stack([sample.frames]))  # pyright: ignore[reportArgumentType]
    kept = decode(encode(features[0].cpu(), dtype), *features.shape[1:], dtype).to(features).unsqueeze(0)
    told = collate_training([sample], data.inputs.pad_id)

    def results(seen: Tensor) -> tuple[Tensor, Tensor]:
        network = recognizer.network
        hidden = hidden_states(network, seen, told["input_ids"], told["attention_mask"])
        prompt = torch.tensor([sample.prompt])
        ranking = rank(network, seen, prompt, torch.ones_like(prompt), recognizer.trie)
        return answer_loss(network, hidden, told["labels"], 0.0), ranking

    (loss, ranking), (other_loss, other_ranking) = results(features), results(kept)
    return {
        "features": float((kept - features).norm() / features.norm()),
        "loss": float((other_loss - loss).abs()),
        "ranking": float((other_ranking - ranking).abs().max()),
        "first": float(ranking.argmax() == other_ranking.argmax()),
    }


if __name__ == "__main__":
    explained(main)
