"""Which of a clip's frames decided: each is hidden in turn, and the clip is ranked again."""

from collections.abc import Sequence

import torch
from torch import Tensor

from slr.data.collate import Batch
from slr.models.ranking import look
from slr.models.sign_model import SignModel
from slr.models.trie import build_trie


def neutral(frames: Tensor) -> Tensor:
    """A frame whose every pixel has the clip's mean colour.

    It shows neither pose nor movement, and is as light as its neighbours. Black would stand out of most clips, and a
    frame left out would move every later one to another place in the prompt.

    Args:
        frames: uint8 (T, 3, h, w).

    Returns:
        uint8 (1, 3, h, w).
    """
    mean = frames.cpu().double().mean(dim=(0, 2, 3)).round()  # not every device has float64
    return mean.to(frames.device, frames.dtype).view(1, 3, 1, 1).expand(1, *frames.shape[1:])


@torch.no_grad()
def occlusion(model: SignModel, batch: Batch, glosses: Sequence[str], at_once: int) -> Tensor:
    """By how much each frame speaks for each gloss: float32 (T, G), in nats, the same at every call.

    It is the gloss's log-probability given the whole clip, less the one given the clip with that frame replaced by
    `neutral` (occlusion, Zeiler and Fergus, ECCV 2014, over time instead of space). Above zero the frame speaks for the
    gloss, below zero against it. What two frames show alike counts for neither: hiding one leaves the other.

    The vision tower encodes each frame once; only the language model reads T + 1 clips.

    Args:
        model: in evaluation mode.
        batch: one clip for ranking, with frames, on the model's device.
        glosses: G of the vocabulary, none twice.
        at_once: clips that the language model reads together.

    Raises:
        ValueError: not exactly one clip with frames.
    """
    [frames] = list(batch.get("frames", []))
    count = len(frames)
    tokens = model.encode(torch.cat([frames, neutral(frames)]).unsqueeze(0))  # (1, (T + 1) x tokens, D)
    tokens = tokens.unflatten(1, (count + 1, -1))[0]
    clips = torch.arange(count, device=tokens.device).repeat(count + 1, 1)  # the whole clip, then T with a frame hidden
    clips[1:].fill_diagonal_(count)
    trie = build_trie([model.inputs.answer_ids(gloss) for gloss in glosses], glosses)
    rankings = []
    for rows in clips.split(at_once):
        ids, mask = (batch[name].expand(len(rows), -1) for name in ("input_ids", "attention_mask"))
        rankings.append(look(model.network, tokens[rows].flatten(1, 2), ids, mask, trie).log_probability)
    scores = torch.cat(rankings)
    return scores[:1] - scores[1:]
