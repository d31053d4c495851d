"""What storing features in fewer bits changes: `python benchmarks/features.py run=outputs/…`.

Ranks the val part of a run from features as computed, and from the same after each way of storing them. Prints how far
features, each clip's loss (token objective, no smoothing) and log-probabilities stray at most, and how many clips keep
their first gloss.
"""

from options import FeaturesArgs, read

if __name__ == "__main__":
    ARGS = read(FeaturesArgs)  # before torch is imported

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from slr import factory
from slr.config.saved_run import open_run
from slr.core.errors import explained
from slr.data.batches import ClipData
from slr.data.cache.features import decode, encode
from slr.data.collate import Sample, collate_training
from slr.data.manifest import Clip
from slr.data.split import read_split
from slr.models.internvl import answer_loss, hidden_states
from slr.models.ranking import look
from slr.training import assemble
from slr.training.module import SignModule

DTYPES = ("float32", "bf16", "int8")


@dataclass(frozen=True)
class Trained:
    """A run's best network and its val clips."""

    recognizer: SignModule
    data: ClipData
    clips: list[Clip]


def main(args: FeaturesArgs) -> None:
    """Measure and print."""
    run = opened(args.run, args.limit)
    strays = {dtype: [stray(run, clip, dtype) for clip in tqdm(run.clips, desc=dtype)] for dtype in DTYPES}
    show(strays)


def opened(folder: Path, limit: int) -> Trained:
    """The run in `folder`, with `limit` of its val clips at most."""
    run, config, vocabulary = open_run(folder)
    clips = factory.clips(config)
    machine, inputs = factory.machine(config), factory.inputs(config)
    recognizer = assemble.recognizer(config, vocabulary, machine, inputs)
    recognizer.restore(run.checkpoint("best"))
    recognizer.eval()
    data = factory.data(config, factory.prepared(config), {}, vocabulary, machine, inputs)
    return Trained(recognizer, data, read_split(run.split, clips).select(clips, "val")[:limit])


def show(strays: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """The largest strays of each way, and how many clips keep their first gloss."""
    print(f"{len(next(iter(strays.values())))} clips   features   loss      log-probability   same first gloss")
    for name, rows in strays.items():
        worst = {figure: max(row[figure] for row in rows) for figure in ("features", "loss", "ranking")}
        same = sum(row["first"] for row in rows)
        print(f"{name:<12} {worst['features']:<10.2%} {worst['loss']:<9.1e} {worst['ranking']:<17.1e} {same:.0f}")


@torch.no_grad()
def stray(run: Trained, clip: Clip, dtype: str) -> Mapping[str, float]:
    """How far storing one clip's features in `dtype` takes them, its loss and its ranking from what they were."""
    sample = run.data.ranking_set([clip])[0, 0]
    features = seen(run.recognizer, sample)
    stored = encode(features[0].cpu(), dtype)
    kept = decode(stored, features.shape[1], features.shape[2], dtype).to(features).unsqueeze(0)
    return compared(run, sample, features, kept)


def seen(recognizer: SignModule, sample: Sample) -> Tensor:
    """Features (1, V, D) of a sample's frames."""
    return recognizer.encode(torch.stack([sample.frames]))  # pyright: ignore[reportArgumentType]


def compared(run: Trained, sample: Sample, features: Tensor, others: Tensor) -> dict[str, float]:
    """How far other features of a sample, its loss and its ranking are from what `features` give."""
    batch = collate_training([sample], run.data.inputs.pad_id)

    def results(features: Tensor) -> tuple[Tensor, Tensor]:
        network = run.recognizer.network
        hidden = hidden_states(network, features, batch["input_ids"], batch["attention_mask"])
        prompt = torch.tensor([sample.prompt])
        ranking = look(network, features, prompt, torch.ones_like(prompt), run.recognizer.trie).log_probability
        return answer_loss(network, hidden, batch["labels"], 0.0), ranking

    (loss, ranking), (other_loss, other_ranking) = results(features), results(others)
    return {
        "features": float((others - features).norm() / features.norm()),
        "loss": float((other_loss - loss).abs()),
        "ranking": float((other_ranking - ranking).abs().max()),
        "first": float(ranking.argmax() == other_ranking.argmax()),
    }


if __name__ == "__main__":
    explained(lambda: main(ARGS))
