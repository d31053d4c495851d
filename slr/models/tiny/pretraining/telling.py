"""Second stage: the language model learns to tell what the frames show; the vision tower stays as it is.

Each clip is a conversation of several turns, in random order: the sign's name if it has one, its description, its
movement alone. Two sets of linear heads read the hidden states on the way, for a loss of their own: after layer 2, at
the end of each frame, where the palms are and how they have moved since the frame before; after layer 3, where an
answer begins, everything that makes the sign. They are thrown away. What remains is a last layer that turns the
parameters of a sign into a word, which is what LoRA redirects later.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import InternVLForConditionalGeneration, PreTrainedTokenizerFast

from slr.models.tiny.pretraining.build import TOKENS_PER_FRAME
from slr.models.tiny.pretraining.lessons import MOVEMENTS, SHAPES, Lesson, attributes, draw_lessons, lexicon
from slr.models.tiny.pretraining.seeing import curve_line, see, to_pixels, warm_cosine
from slr.prepare.synthetic.signs import HANDS, HANDSHAPES, LOCATIONS, Sign

FRAMES = 16
"""Frames of a clip in the bank, of which a conversation is about 1 to 16, mostly 8."""
NAME = (
    "Name the sign.",
    "Name the sign in one word.",
    "What is the sign?",
    "Name this sign.",
    "Which sign is shown in the video? Answer with one word.",
)
DESCRIBE = ("Describe the sign.", "Describe this sign in words.")
MOVE = ("What is the hand movement?",)
_FIGURES = ("loss", "text", "frames", "parameters", "name", "words", "handshape", "location", "movement", "hands")
_FRAME_SIZES = (4, 2, len(SHAPES), 1)
"""Outputs at a frame's end: both palms, the dominant palm's step since the last frame, its shape, raised."""
_SIGN_SIZES = (len(HANDSHAPES), len(LOCATIONS), len(MOVEMENTS), len(HANDS))


@dataclass(frozen=True, slots=True)
class Bank:
    """Clips that the vision tower has seen. features: float16 (N, T, 16, D); the rest as in Lesson."""

    signs: list[Sign]
    features: Tensor
    palms: Tensor
    shapes: Tensor
    raised: Tensor


@dataclass(frozen=True, slots=True)
class Conversations:
    """Token ids (B, L), padded on the right; rows and columns of the answers' tokens and of the turns' beginnings."""

    ids: Tensor
    targets: tuple[Tensor, Tensor]
    starts: tuple[Tensor, Tensor]
    named: Tensor
    """For each target, whether it belongs to a name."""


def fill_bank(model: InternVLForConditionalGeneration, first: int, number: int, workers: int) -> Bank:
    """Draw the lessons from `first` on and look at them once."""
    signs, features, palms, shapes, raised = [], [], [], [], []
    chunk: list[Lesson] = []
    for lesson in draw_lessons(first, number, FRAMES, workers):
        chunk.append(lesson)
        signs.append(lesson.sign)
        palms.append(lesson.palms)
        shapes.append(lesson.shapes)
        raised.append(lesson.raised)
        if len(chunk) == 16 or len(signs) == number:
            with torch.no_grad():
                seen = see(model, to_pixels(np.concatenate([lesson.pictures for lesson in chunk])))
            features.append(seen.unflatten(0, (len(chunk), FRAMES)).half())
            chunk.clear()
    tensors = (torch.from_numpy(np.stack(a)) for a in (palms, shapes, raised))
    return Bank(signs, torch.cat(features), *tensors)


class Script:
    """Writes conversations about clips as token ids."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}
        self.image_token = tokenizer.get_vocab()["<IMG_CONTEXT>"]
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

    def write(self, signs: Sequence[Sign], frames: int, rng: np.random.Generator) -> Conversations:
        """One conversation a clip."""
        first = 1 if rng.random() < 0.8 else int(rng.integers(1, 57))
        prefix = self.prefix(frames, first)
        rows, targets, starts, named = [], [], [], []
        for row, sign in enumerate(signs):
            ids = list(prefix)
            for turn, (question, answer, is_name) in enumerate(_turns(sign, rng)):
                ids += self.ids("<|im_start|>user\n") if turn else []
                ids += [*self.ids(question), *self.ids("<|im_end|>\n<|im_start|>assistant\n")]
                starts.append((row, len(ids) - 1))
                answer_ids = [*self.ids(answer), *self.ids("<|im_end|>")]
                targets += [(row, len(ids) + i) for i in range(len(answer_ids))]
                named += [is_name] * len(answer_ids)
                ids += [*answer_ids, *self.ids("\n")]
            rows.append(ids)
        length = max(map(len, rows))
        ids = torch.tensor([row + [self.pad] * (length - len(row)) for row in rows])
        where, begin = torch.tensor(targets).T, torch.tensor(starts).T
        return Conversations(ids, (where[0], where[1]), (begin[0], begin[1]), torch.tensor(named))


class Heads(nn.Module):
    """The linear heads that read the hidden states in pretraining."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.frame = nn.Sequential(nn.RMSNorm(width), nn.Linear(width, sum(_FRAME_SIZES)))
        self.sign = nn.Sequential(nn.RMSNorm(width), nn.Linear(width, sum(_SIGN_SIZES)))


def hidden_states(
    model: InternVLForConditionalGeneration, features: Tensor, ids: Tensor, image_token: int
) -> tuple[Tensor, ...]:
    """Hidden states (B, L, D) before the first layer and after each one, the last one normalised."""
    language = model.model.language_model
    embeds = language.embed_tokens(ids)
    embeds = embeds.masked_scatter((ids == image_token)[..., None], features.to(embeds.dtype))
    return language(inputs_embeds=embeds, use_cache=False, output_hidden_states=True).hidden_states


def train_telling(
    model: InternVLForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    bank: Bank,
    steps: int,
    batch: int,
    rate: float,
    seed: int,
    log: Callable[[str], None],
) -> Heads:
    """Train the language model in place on the bank's clips; `log` gets a line of the curve every 100 steps.

    Returns the heads that read the hidden states, for `judge`.
    """
    script, heads = Script(tokenizer), Heads(model.lm_head.in_features)
    parts = nn.ModuleList([model.model.language_model, model.lm_head, heads])
    optimiser = torch.optim.AdamW(parts.parameters(), lr=rate, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: warm_cosine(step, steps))
    rng = np.random.default_rng(seed)
    figures: list[Tensor] = []
    for chosen in _batches(len(bank.signs), batch, steps, rng):
        loss, figure = _loss(model, heads, script, bank, chosen, rng)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        figures.append(figure)
        if len(figures) == 100:
            log(f"telling {schedule.last_epoch:5d}  {curve_line(_FIGURES, figures)}")
            figures.clear()
    return heads


@torch.no_grad()
def judge(
    model: InternVLForConditionalGeneration, heads: Heads, tokenizer: PreTrainedTokenizerFast, bank: Bank, batch: int
) -> str:
    """The figures of the curve on clips that were not trained on, as one line."""
    rng, script = np.random.default_rng(0), Script(tokenizer)
    steps = len(bank.signs) // batch
    figures = [
        _loss(model, heads, script, bank, chosen, rng)[1] for chosen in _batches(steps * batch, batch, steps, rng)
    ]
    return curve_line(_FIGURES, figures)


def _turns(sign: Sign, rng: np.random.Generator) -> list[tuple[str, str, bool]]:
    turns = [
        (DESCRIBE[rng.integers(len(DESCRIBE))], str(sign), False),
        (MOVE[0], sign.movement, False),
    ]
    if sign in lexicon():
        turns.append((NAME[0 if rng.random() < 0.6 else rng.integers(len(NAME))], lexicon()[sign], True))
    return [turns[i] for i in rng.permutation(len(turns))]


def _batches(size: int, batch: int, steps: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Indices for each step; every clip once before any comes again."""
    order = np.empty(0, dtype=np.int64)
    for _ in range(steps):
        if len(order) < batch:
            order = np.concatenate([order, rng.permutation(size)])
        yield order[:batch]
        order = order[batch:]


def _loss(
    model: InternVLForConditionalGeneration,
    heads: Heads,
    script: Script,
    bank: Bank,
    chosen: np.ndarray,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    signs, at = [bank.signs[i] for i in chosen], torch.from_numpy(chosen)
    looked = _frames_looked_at(rng)
    talk = script.write(signs, len(looked), rng)
    states = hidden_states(model, bank.features[at][:, looked], talk.ids, script.image_token)
    end_of_frame = (talk.ids == script.ids("</img>")[0]).nonzero(as_tuple=True)
    frame_loss = _frame_loss(heads.frame(states[2][end_of_frame]).unflatten(0, (len(chosen), -1)), bank, at, looked)
    told = heads.sign(states[3][talk.starts]).split(_SIGN_SIZES, dim=-1)
    truth = torch.tensor([attributes(sign) for sign in signs])[talk.starts[0]].T
    sign_loss = torch.stack([F.cross_entropy(t, true) for t, true in zip(told, truth, strict=True)]).mean()
    right = [(t.argmax(-1) == true).float().mean() for t, true in zip(told, truth, strict=True)]
    row, column = talk.targets
    logits = model.lm_head(states[-1][row, column - 1])
    text_loss = F.cross_entropy(logits, talk.ids[row, column])
    hit = (logits.argmax(-1) == talk.ids[row, column]).float()
    loss = text_loss + sign_loss + frame_loss
    named = hit[talk.named].mean(), hit[~talk.named].mean()
    return loss, torch.stack([loss, text_loss, frame_loss, sign_loss, *named, *right]).detach()


def _frames_looked_at(rng: np.random.Generator) -> Tensor:
    """One frame of each of 1, 4, 8 or 16 equal segments of the clip, as training samples them later; mostly of 8."""
    segments = int(rng.choice((8, 16, 4, 1), p=(0.75, 0.08, 0.12, 0.05)))
    length = FRAMES // segments
    return torch.arange(segments) * length + torch.from_numpy(rng.integers(0, length, segments))


def _frame_loss(told: Tensor, bank: Bank, at: Tensor, looked: Tensor) -> Tensor:
    """How wrong (B, T, ...) outputs at the frames' ends are about palms, steps, shapes."""
    palms, shapes, raised = bank.palms[at][:, looked], bank.shapes[at][:, looked], bank.raised[at][:, looked]
    step = torch.diff(palms[:, :, 0], dim=1, prepend=palms[:, :1, 0])
    place, moved, shape, up = told.split(_FRAME_SIZES, dim=-1)
    return (
        4 * F.smooth_l1_loss(place, palms.flatten(2), beta=0.05)
        + 8 * F.smooth_l1_loss(moved, step, beta=0.05)
        + 0.3 * F.cross_entropy(shape.flatten(0, 1), shapes[:, :, 0].flatten())
        + 0.3 * F.binary_cross_entropy_with_logits(up[..., 0], raised)
    )
