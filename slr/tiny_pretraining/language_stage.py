"""Second stage: the language model learns to answer about clips; the vision tower stays as it is.

Each clip is a conversation in random order: the sign's name if it has one, its description, its movement. Two linear
heads, thrown away afterwards, read the hidden states for losses of their own: after layer 2, at each frame's end, palms
and how the dominant one moved; after layer 3, where an answer begins, the sign's parameters. So the last layer alone
turns parameters into a word, which is what LoRA changes later.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import InternVLForConditionalGeneration, PreTrainedTokenizerFast

from slr.models.internvl import embed
from slr.prepare.synthetic.signs import HANDS, HANDSHAPES, LOCATIONS, Sign
from slr.tiny_pretraining.clips import MOVEMENTS, SHAPES, attributes, draw_batches, lexicon
from slr.tiny_pretraining.fit import fit, means
from slr.tiny_pretraining.vision_stage import TOKENS_PER_FRAME, project

FRAMES = 16  # of a clip in the bank, of which a conversation is about 1 to 16, mostly 8
CLIPS_PER_STEP = 32
RATE = 1.5e-3
NAME = (
    "Name the sign.",
    "Name the sign in one word.",
    "What is the sign?",
    "Name this sign.",
    "Which sign is shown in the video? Answer with one word.",
)
DESCRIBE = ("Describe the sign.", "Describe this sign in words.")
MOVE = "What is the hand movement?"
OTHER, FRAME_END, ANSWER, NAMED = range(4)  # what a token of a conversation is; NAMED is an answer that is a name
_METRICS = ("loss", "text", "frames", "parameters", "name", "words", "handshape", "location", "movement", "hands")
# Outputs of the heads; at a frame's end: both palms, the dominant palm's step since the last frame, its shape, raised.
_SIZES = {
    "frame": (4, 2, len(SHAPES), 1),
    "sign": (len(HANDSHAPES), len(LOCATIONS), len(MOVEMENTS), len(HANDS)),
}


@dataclass(frozen=True, slots=True)
class Bank:
    """Features of clips, float16 (N, T, 16, D), and their labels as in LabelledClip."""

    signs: Sequence[Sign]
    features: Tensor
    palms: Tensor
    shapes: Tensor
    raised: Tensor


def fill_bank(model: InternVLForConditionalGeneration, first: int, number: int, workers: int) -> Bank:
    """Draw the clips from `first` on and compute their features once."""
    features, labels = [], []
    for batch in draw_batches(first, number, FRAMES, workers, size=16):
        with torch.no_grad():
            features.append(project(model, batch).unflatten(0, (len(batch), FRAMES)).half())
        labels += [(clip.sign, clip.palms, clip.shapes, clip.raised) for clip in batch]
    signs, *arrays = zip(*labels, strict=True)
    return Bank(signs, torch.cat(features), *(torch.from_numpy(np.stack(array)) for array in arrays))


class Writer:
    """Writes conversations about clips as token ids."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}
        self.pad = tokenizer.get_vocab()["<|endoftext|>"]

    def ids(self, text: str) -> list[int]:
        """Token ids of a text; each text is tokenised once."""
        if text not in self._known:
            self._known[text] = self._tokenizer(text, add_special_tokens=False).input_ids
        return self._known[text]

    def prefix(self, frames: int, first: int = 1) -> list[int]:
        """The beginning of the user's turn up to the end of the frames; `first` is the first frame's number."""
        ids = list(self.ids("<|im_start|>user\n"))
        for i in range(first, first + frames):
            ids += self.ids(f"Frame{i}: <img>{'<IMG_CONTEXT>' * TOKENS_PER_FRAME}</img>\n")
        return ids

    def write(self, signs: Sequence[Sign], frames: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """One conversation a clip.

        Returns:
            Token ids and what they are, both int64 (B, L), padded on the right: OTHER, FRAME_END, …
        """
        first = 1 if rng.random() < 0.8 else int(rng.integers(1, 57))
        prefix, frame_end = self.prefix(frames, first), self.ids("</img>")[0]
        rows, kinds = [], []
        for sign in signs:
            ids, kind = list(prefix), [FRAME_END if token == frame_end else OTHER for token in prefix]
            for turn, (question, answer, answer_kind) in enumerate(_turns(sign, rng)):
                asked = [*(self.ids("<|im_start|>user\n") if turn else []), *self.ids(question)]
                asked += self.ids("<|im_end|>\n<|im_start|>assistant\n")
                answered = [*self.ids(answer), *self.ids("<|im_end|>")]
                ids += [*asked, *answered, *self.ids("\n")]
                kind += [*[OTHER] * len(asked), *[answer_kind] * len(answered), OTHER]
            rows.append(torch.tensor(ids))
            kinds.append(torch.tensor(kind))
        pad = nn.utils.rnn.pad_sequence
        return pad(rows, batch_first=True, padding_value=self.pad), pad(kinds, batch_first=True, padding_value=OTHER)


def _turns(sign: Sign, rng: np.random.Generator) -> list[tuple[str, str, int]]:
    """(question, answer, ANSWER or NAMED) in random order."""
    turns = [(DESCRIBE[rng.integers(len(DESCRIBE))], str(sign), ANSWER), (MOVE, sign.movement, ANSWER)]
    if sign in lexicon():
        turns.append((NAME[0 if rng.random() < 0.6 else rng.integers(len(NAME))], lexicon()[sign], NAMED))
    return [turns[i] for i in rng.permutation(len(turns))]


def hidden_states(model: InternVLForConditionalGeneration, features: Tensor, ids: Tensor) -> tuple[Tensor, ...]:
    """Hidden states (B, L, D) before the first layer and after each one, the last one normalised.

    Args:
        features: (B, V, D).
        ids: int64 (B, L), the image token V times in each row.
    """
    language = model.model.language_model
    return language(inputs_embeds=embed(model, features, ids), use_cache=False, output_hidden_states=True).hidden_states


def train_language(
    model: InternVLForConditionalGeneration,
    writer: Writer,
    bank: Bank,
    steps: int,
    seed: int,
    log: Callable[[str], None],
) -> nn.ModuleDict:
    """Train the language model in place on the bank's clips; `log` gets a line of the curve every 100 steps.

    Returns the heads that read the hidden states, for `evaluate`.
    """
    width = model.lm_head.in_features
    heads = nn.ModuleDict(
        {name: nn.Sequential(nn.RMSNorm(width), nn.Linear(width, sum(sizes))) for name, sizes in _SIZES.items()}
    )
    parts = nn.ModuleList([model.model.language_model, model.lm_head, heads])
    batches = _batches(bank, writer, len(bank.signs), steps, np.random.default_rng(seed))
    losses = (_loss(model, heads, *batch) for batch in batches)
    fit(
        parts,
        losses,
        steps,
        RATE,
        (0.9, 0.98),
        lambda step, recent: log(f"language {step:5d}  {means(_METRICS, recent)}"),
    )
    return heads


@torch.no_grad()
def evaluate(model: InternVLForConditionalGeneration, heads: nn.ModuleDict, writer: Writer, bank: Bank) -> str:
    """The curve's metrics on clips that were not trained on, as one line."""
    steps = len(bank.signs) // CLIPS_PER_STEP
    batches = _batches(bank, writer, steps * CLIPS_PER_STEP, steps, np.random.default_rng(0))
    return means(_METRICS, [_loss(model, heads, *batch)[1] for batch in batches])


def _batches(
    bank: Bank, writer: Writer, size: int, steps: int, rng: np.random.Generator
) -> Iterator[tuple[Bank, Tensor, Tensor]]:
    """Some frames of some clips, and conversations about them; each of the first `size` clips once before any again."""
    order = np.empty(0, dtype=np.int64)
    for _ in range(steps):
        if len(order) < CLIPS_PER_STEP:
            order = np.concatenate([order, rng.permutation(size)])
        clips, order = order[:CLIPS_PER_STEP], order[CLIPS_PER_STEP:]
        # One frame of each of equal segments of the clip, as training samples them later.
        segments = int(rng.choice((8, 16, 4, 1), p=(0.75, 0.08, 0.12, 0.05)))
        frames = np.arange(segments) * (FRAMES // segments) + rng.integers(0, FRAMES // segments, segments)
        part = [values[clips][:, frames] for values in (bank.features, bank.palms, bank.shapes, bank.raised)]
        signs = [bank.signs[i] for i in clips]
        yield Bank(signs, *part), *writer.write(signs, segments, rng)


def _loss(
    model: InternVLForConditionalGeneration, heads: nn.ModuleDict, clips: Bank, ids: Tensor, kind: Tensor
) -> tuple[Tensor, Tensor]:
    """The loss, and metrics for the curve, of conversations (B, L)."""
    states = hidden_states(model, clips.features.flatten(1, 2), ids)
    frame_ends = states[2][kind == FRAME_END].unflatten(0, (len(ids), -1))
    frame_loss = _frame_loss(heads["frame"](frame_ends), clips)
    is_answer = kind >= ANSWER
    row, before = (is_answer[:, 1:] & ~is_answer[:, :-1]).nonzero(as_tuple=True)
    outputs = heads["sign"](states[3][row, before]).split(_SIZES["sign"], dim=-1)
    labels = torch.tensor([attributes(sign) for sign in clips.signs])[row].T
    by_attribute = list(zip(outputs, labels, strict=True))
    sign_loss = torch.stack([functional.cross_entropy(output, label) for output, label in by_attribute]).mean()
    right = [(output.argmax(-1) == label).float().mean() for output, label in by_attribute]
    row, column = is_answer.nonzero(as_tuple=True)
    logits, targets = model.lm_head(states[-1][row, column - 1]), ids[row, column]
    text_loss = functional.cross_entropy(logits, targets)
    hit, named = (logits.argmax(-1) == targets).float(), kind[row, column] == NAMED
    loss = text_loss + sign_loss + frame_loss
    return loss, torch.stack(
        [loss, text_loss, frame_loss, sign_loss, hit[named].mean(), hit[~named].mean(), *right]
    ).detach()


def _frame_loss(outputs: Tensor, clips: Bank) -> Tensor:
    """Loss of the (B, T, ...) outputs at the frames' ends: palms, their steps, shapes, whether raised."""
    step = torch.diff(clips.palms[:, :, 0], dim=1, prepend=clips.palms[:, :1, 0])
    place, moved, shape, up = outputs.split(_SIZES["frame"], dim=-1)
    return (
        4 * functional.smooth_l1_loss(place, clips.palms.flatten(2), beta=0.05)
        + 8 * functional.smooth_l1_loss(moved, step, beta=0.05)
        + 0.3 * functional.cross_entropy(shape.flatten(0, 1), clips.shapes[:, :, 0].flatten())
        + 0.3 * functional.binary_cross_entropy_with_logits(up[..., 0], clips.raised)
    )
