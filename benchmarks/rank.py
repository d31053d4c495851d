"""Ranking a vocabulary for a clip, ours against beam search: `python benchmarks/rank.py --quick`.

Ours gives every gloss its exact probability: a pass over the prompt (prefill) and one over the trie behind it. The
plain way, five beams of transformers' `generate`, gives at most five answers, which need not be glosses. It is measured
twice: with room for the vocabulary's longest gloss, as one must give it, and stopped after one token and the end, the
least that a trained network could do, where its likeliest answers are all that short. Both have the clip's features in
place, but for the rows `from frames`. The floor is the prefill's operations at the rate that the machine reaches in
large matrix products. Without `--quick` also: how time and memory grow with the vocabulary.
"""

from options import RankArgs, read

if __name__ == "__main__":
    ARGS = read(RankArgs)  # before torch is imported

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import measure
import torch
from measure import MIB, Cost, Row
from step import configuration, silence
from torch import Tensor

from slr import factory
from slr.core.errors import explained

if TYPE_CHECKING:
    from slr.models.processor import Inputs
    from slr.models.trie import Trie

USUAL = 300
# Glosses of WLASL's first K by their tokens (one, two, three, four) in Qwen's spelling, and how many tokens begin one.
SPELLED = {
    10: ((7, 2, 1, 0), 9),
    100: ((82, 17, 1, 0), 99),
    300: ((236, 63, 1, 0), 287),
    1000: ((662, 310, 28, 0), 848),
    2000: ((1135, 746, 113, 6), 1450),
}


@dataclass(frozen=True)
class Bench:
    """The network, and clips as it gets them.

    Attributes:
        pixels: float (B, T, 3, h, w).
        features: (B, V, D).
        tokens, mask: int64 (B, L), of the prompt.
    """

    network: Any
    inputs: "Inputs"
    device: torch.device
    autocast: Callable[[], torch.autocast]
    pixels: Tensor
    features: Tensor
    tokens: Tensor
    mask: Tensor

    def of(self, clips: int) -> "Bench":
        """The same for so many clips."""
        names = ("pixels", "features", "tokens", "mask")
        return dataclasses.replace(
            self, **{name: getattr(self, name)[:1].repeat_interleave(clips, 0) for name in names}
        )


def main(args: RankArgs) -> None:
    """Measure and print."""
    bench, dtype = prepare(args)
    silence()
    about = measure.machine(bench.device, dtype)
    counts = args.clips or ((1,) if args.quick else (1, 8))
    rows, trie = [], build(bench.inputs, USUAL, args.index)
    for clips in counts:
        rows += compare(bench.of(clips), trie, args.rounds, args.calls, 1e9 * about["matrix_gflops"])
    rows.append(no_gloss(bench.of(1), trie))
    if not args.quick:
        rows += curve(bench.of(counts[0]), args.index, args.rounds, args.calls)
    measure.show(rows, args.json, about | {"model": args.model})


def prepare(args: RankArgs) -> tuple[Bench, torch.dtype]:
    """The network with a fresh adapter, in evaluation mode, and a clip of noise: what it shows costs nothing."""
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    config = configuration(args, device)
    from slr.models import internvl
    from slr.prepare.synthetic.signs import Side, names
    from slr.training import assemble

    machine, inputs = factory.machine(config), factory.inputs(config)
    measure.progress("building the network …")
    network: Any = assemble.recognizer(config, names(Side.DATA_SET, 2), machine, inputs).to(device).network.eval()
    noise = torch.randint(256, (1, args.frames, 3, *inputs.image_size), generator=torch.Generator().manual_seed(0))
    autocast = partial(torch.autocast, device, machine.dtype, enabled=machine.precision != "32-true")
    with autocast():
        pixels = inputs.normalise(noise.to(torch.uint8).to(device), machine.dtype)
        features = internvl.encode_frames(network, pixels)
    tokens = torch.tensor([inputs.prompt_ids(config.model.prompt, args.frames)], device=device)
    bench = Bench(network, inputs, torch.device(device), autocast, pixels, features, tokens, torch.ones_like(tokens))
    return bench, machine.dtype


def build(inputs: "Inputs", count: int, index: Path | None) -> "Trie":
    """A trie of WLASL's first glosses, spelled by the tokenizer where that is large enough for words, else invented."""
    from slr.models.trie import build_trie

    ordinary = min(inputs.image_token_id, inputs.end_id, inputs.pad_id)
    if index is None or ordinary < 50_000:
        return build_trie(invented(count, ordinary, inputs.end_id))
    glosses = [entry["gloss"] for entry in json.loads(index.read_text(encoding="utf-8"))[:count]]
    return build_trie([inputs.answer_ids(gloss) for gloss in glosses])


def invented(count: int, ordinary: int, end_id: int) -> list[list[int]]:
    """Random token sequences of WLASL's lengths and sharing.

    Where there are fewer tokens than first tokens are wanted, what would be a gloss of one token gets a second.

    Args:
        count: of glosses; one of `SPELLED`.
        ordinary: token ids below it may be used.
        end_id: ends every sequence.
    """
    lengths, firsts = SPELLED[count]
    rng = Random(0)
    begin = rng.sample(range(ordinary), min(firsts, ordinary))
    wanted = [length for length, number in enumerate(lengths, start=1) for _ in range(number)]
    glosses: dict[tuple[int, ...], None] = {}
    for number, length in enumerate(wanted):
        # Those of one token come first and have a beginning each; later ones use up the rest, then share.
        head = (begin[number],) if number < len(begin) else (rng.choice(begin),)
        length = max(length, 2) if number >= len(begin) else length
        gloss = head
        while len(gloss) < length or gloss in glosses:
            gloss = head + tuple(rng.randrange(ordinary) for _ in range(length - 1))
        glosses[gloss] = None
    return [[*gloss, end_id] for gloss in glosses]


def compare(bench: Bench, trie: "Trie", rounds: int, calls: int, rate: float) -> list[Row]:
    """Every way of ranking the usual vocabulary."""
    clips = len(bench.tokens)
    measure.progress(f"{clips} clips, {len(trie.path)} glosses, {len(trie.token)} trie nodes")
    longest = trie.path.shape[1]
    ways = {
        "prefill": partial(prefill, bench),
        "ours": partial(ours, bench, trie),
        "beams": partial(plain, bench, longest),
        "short beams": partial(plain, bench, 2),
        "ours from frames": partial(from_frames, bench, lambda seen: ours(seen, trie)),
        "beams from frames": partial(from_frames, bench, lambda seen: plain(seen, longest)),
    }
    costs = measure_all(bench, ways, rounds, calls)
    floor = measure.operations(partial(within, bench, partial(prefill, bench))) / rate
    return [*times(costs, clips, longest, floor), *memories(costs, clips, bench)]


def times(costs: dict[str, Cost], clips: int, longest: int, floor: float) -> list[Row]:
    """What each way takes, and how it compares with a prefill."""
    seconds = {name: cost.seconds for name, cost in costs.items()}
    once = seconds["prefill"]
    prefills = {name: value / once if value and once else None for name, value in seconds.items()}
    about = f"{clips} clip{'s' if clips > 1 else ''}: "
    return [
        Row(f"{about}prefill alone", once, None, floor, "s"),
        Row(f"{about}prefill and trie, beam-5 of {longest} tokens", seconds["ours"], seconds["beams"], floor, "s"),
        Row(f"{about}prefill and trie, beam-5 of 2 tokens", seconds["ours"], seconds["short beams"], floor, "s"),
        Row(f"{about}from frames", seconds["ours from frames"], seconds["beams from frames"], None, "s"),
        Row(f"{about}prefill and trie over prefill", prefills["ours"], prefills["beams"], 1.0, "prefills"),
    ]


def memories(costs: dict[str, Cost], clips: int, bench: Bench) -> list[Row]:
    """What each way holds at its peak."""
    mib = {name: None if cost.memory is None else cost.memory / MIB for name, cost in costs.items()}
    about, unit = f"{clips} clip{'s' if clips > 1 else ''}: ", unit_of_memory(bench)
    return [
        Row(f"{about}prefill alone", mib["prefill"], None, None, unit),
        Row(f"{about}prefill and trie, beam-5", mib["ours"], mib["beams"], None, unit),
    ]


def unit_of_memory(bench: Bench) -> str:
    """What `Cost.memory` is, in the table's words."""
    return "MiB in all" if bench.device.type == "cuda" else "MiB more"


def no_gloss(bench: Bench, trie: "Trie") -> Row:
    """How many of a clip's five beams spell no gloss; ours always names glosses. The network has not learned them."""
    answers = within(bench, partial(plain, bench, trie.path.shape[1])).tolist()
    known = {tuple(int(trie.edge_token[e]) for e in path if e < len(trie.edge_token)) for path in trie.path}
    end = bench.inputs.end_id
    strange = sum((*answer[: answer.index(end)], end) not in known if end in answer else True for answer in answers)
    return Row("beams that are no gloss, untrained", 0, strange, None, "of 5", better="neither")


def measure_all(bench: Bench, ways: dict[str, Callable[[], object]], rounds: int, calls: int) -> dict[str, Cost]:
    """The ways' costs, turn by turn."""
    contestants = {
        name: partial(measure.cost, partial(within, bench, way), bench.device, calls) for name, way in ways.items()
    }
    return measure.in_turns(contestants, rounds)


def within(bench: Bench, way: Callable[[], Any]) -> Any:  # noqa: ANN401
    """What `way` gives, without a graph and in the machine's precision."""
    with torch.no_grad(), bench.autocast():
        return way()


def prefill(bench: Bench) -> object:
    """The language model's pass over the prompt, with what it keeps for the tokens that follow."""
    from slr.models import internvl

    return internvl.bare(bench.network).model.language_model(
        inputs_embeds=internvl.embed(bench.network, bench.features, bench.tokens),
        attention_mask=bench.mask,
        position_ids=internvl.positions(bench.mask),
        use_cache=True,
    )


def ours(bench: Bench, trie: "Trie") -> Tensor:
    """Every gloss's log-probability."""
    from slr.models.ranking import look

    return look(bench.network, bench.features, bench.tokens, bench.mask, trie).log_probability


def plain(bench: Bench, new_tokens: int) -> Tensor:
    """Five beams."""
    from plain import beams

    from slr.models import internvl

    embedded = internvl.embed(bench.network, bench.features, bench.tokens)
    return beams(bench.network, embedded, bench.mask, new_tokens, bench.inputs.end_id)


def from_frames(bench: Bench, way: Callable[[Bench], object]) -> object:
    """A way with the vision tower before it."""
    from slr.models import internvl

    return way(dataclasses.replace(bench, features=internvl.encode_frames(bench.network, bench.pixels)))


def curve(bench: Bench, index: Path | None, rounds: int, calls: int) -> list[Row]:
    """Ranking against the number of glosses; beams do not know how many there are."""
    tries = {count: build(bench.inputs, count, index) for count in SPELLED}
    ways: dict[str, Callable[[], object]] = {str(count): partial(ours, bench, trie) for count, trie in tries.items()}
    ways["beams"] = partial(plain, bench, tries[USUAL].path.shape[1])
    measure.progress("curve: " + ", ".join(f"{count} glosses {len(trie.token)} nodes" for count, trie in tries.items()))
    costs = measure_all(bench, ways, rounds, calls)
    titles = [f"{count} glosses, {len(trie.token)} nodes" for count, trie in tries.items()]
    of_tries = [costs[str(count)] for count in tries]
    rows = curve_rows(titles, [cost.seconds for cost in of_tries], costs["beams"].seconds, "s")
    mib = [None if cost.memory is None else cost.memory / MIB for cost in of_tries]
    beams = None if costs["beams"].memory is None else costs["beams"].memory / MIB
    return rows + curve_rows(titles, mib, beams, unit_of_memory(bench))


def curve_rows(titles: Sequence[str], figures: Sequence[float | None], beams: float | None, unit: str) -> list[Row]:
    """A row for each vocabulary, and one for the growth."""
    rows = [Row(title, figure, beams, None, unit) for title, figure in zip(titles, figures, strict=True)]
    exponent = measure.growth(list(SPELLED), figures)
    return [*rows, Row(f"growth of {unit} with glosses", exponent, None, None, "exponent", better="neither")]


if __name__ == "__main__":
    explained(lambda: main(ARGS))
