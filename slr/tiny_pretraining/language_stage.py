"""Second stage: the language model learns to answer about clips; the vision tower stays as it is.

Each clip is a conversation in random order: the sign's name if it has one, its description, its movement. Two linear
heads, thrown away afterwards, read the hidden states for losses of their own: after layer 2, at each frame's end, palms
and how the dominant one moved; after layer 3, where an answer begins, the sign's parameters. So the last layer alone
turns parameters into a word, which is what LoRA changes later.
"""

from collections.abc import Iterator, Sequence
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


def user_turn(frames: int, first: int = 1) -> str:
    """The user's turn up to the end of the frames, the first of which has the number `first`."""
    images = "<IMG_CONTEXT>" * TOKENS_PER_FRAME
    return "<|im_start|>user\n" + "".join(f"Frame{i}: <img>{images}</img>\n" for i in range(first, first + frames))


def write(
    tokenizer: PreTrainedTokenizerFast, signs: Sequence[Sign], frames: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """One conversation a clip.

    Returns:
        Token ids and their kinds (OTHER, FRAME_END, ANSWER, NAMED), both int64 (B, L), padded on the right.
    """
    pad, frame_end = (tokenizer.get_vocab()[token] for token in ("<|endoftext|>", "</img>"))
    start = user_turn(frames, first=1 if rng.random() < 0.8 else int(rng.integers(1, 57)))
    rows, kinds = [], []
    for sign in signs:
        texts = [(start, OTHER)]
        for turn, (question, answer, kind) in enumerate(_turns(sign, rng)):
            user = "<|im_start|>user\n" if turn else ""
            texts.append((f"{user}{question}<|im_end|>\n<|im_start|>assistant\n", OTHER))
            texts += [(f"{answer}<|im_end|>", kind), ("\n", OTHER)]
        tokens = tokenizer([text for text, _ in texts], add_special_tokens=False).input_ids
        rows.append(torch.tensor([token for part in tokens for token in part]))
        kinds.append(torch.tensor([kind for part, (_, kind) in zip(tokens, texts, strict=True) for _ in part]))
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)
    kind = nn.utils.rnn.pad_sequence(kinds, batch_first=True, padding_value=OTHER)
    return ids, kind.masked_fill(ids == frame_end, FRAME_END)


def _turns(sign: Sign, rng: np.random.Generator) -> list[tuple[str, str, int]]:
    """(question, answer, ANSWER or NAMED) in random order."""
    turns = [(DESCRIBE[rng.integers(len(DESCRIBE))], str(sign), ANSWER), (MOVE, sign.movement, ANSWER)]
    if sign in lexicon():
        turns.append((NAME[0 if rng.random() < 0.6 else rng.integers(len(NAME))], lexicon()[sign], NAMED))
    return [turns[i] for i in rng.permutation(len(turns))]


def hidden_states(model: InternVLForConditionalGeneration, features: Tensor, ids: Tensor) -> tuple[Tensor, ...]:
    """Hidden states (B, L, D) before the first layer and after each one, the last one normalised."""
    embedded = embed(model, features, ids)
    return model.model.language_model(inputs_embeds=embedded, use_cache=False, output_hidden_states=True).hidden_states


def train_language(
    model: InternVLForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, bank: Bank, steps: int, seed: int
) -> nn.ModuleDict:
    """Train the language model in place on the bank's clips; returns the heads, for `evaluate`."""
    width = model.lm_head.in_features
    heads = nn.ModuleDict(
        {name: nn.Sequential(nn.RMSNorm(width), nn.Linear(width, sum(sizes))) for name, sizes in _SIZES.items()}
    )
    parts = nn.ModuleList([model.model.language_model, model.lm_head, heads])
    batches = _batches(bank, tokenizer, len(bank.signs), steps, np.random.default_rng(seed))
    fit("language", parts, (_loss(model, heads, *batch) for batch in batches), steps, RATE, (0.9, 0.98), _METRICS)
    return heads


@torch.no_grad()
def evaluate(
    model: InternVLForConditionalGeneration, heads: nn.ModuleDict, tokenizer: PreTrainedTokenizerFast, bank: Bank
) -> str:
    """The curve's metrics on clips that were not trained on, as one line."""
    steps = len(bank.signs) // CLIPS_PER_STEP
    batches = _batches(bank, tokenizer, steps * CLIPS_PER_STEP, steps, np.random.default_rng(0))
    return means(_METRICS, [_loss(model, heads, *batch)[1] for batch in batches])


def _batches(
    bank: Bank, tokenizer: PreTrainedTokenizerFast, size: int, steps: int, rng: np.random.Generator
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
        yield Bank(signs, *part), *write(tokenizer, signs, segments, rng)


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
