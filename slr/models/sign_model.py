"""A network with its tokenizer and vocabulary: ranks glosses, writes free text, restores an adapter. No trainer."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from slr.core import distributed
from slr.core.errors import UserError
from slr.models import internvl, lora
from slr.models.generation import beam_search, generate
from slr.models.generation_config import Decoding
from slr.models.processor import Inputs
from slr.models.ranking import RankOutput, look
from slr.models.trie import build_trie

ALL = slice(None)
Batch = Any  # `slr.data.collate.Batch`: a dictionary of B clips with frames or features, and their prompts' tokens


class SignModel(nn.Module):
    """A vision-language model that names signs.

    Args:
        network: InternVL with its adapter.
        inputs: tokens and pixels of the same checkpoint.
        vocabulary: the K ordered glosses.

    Raises:
        UserError: two glosses have the same tokens.
    """

    def __init__(self, network: "internvl.Model", inputs: Inputs, vocabulary: Sequence[str]) -> None:
        super().__init__()
        self.network = network
        self.inputs = inputs
        self.vocabulary = list(vocabulary)
        self.trie = build_trie([inputs.answer_ids(gloss) for gloss in vocabulary], self.vocabulary)

    @property
    def device(self) -> torch.device:
        """The network's device."""
        return next(self.network.parameters()).device

    def to_device(self, batch: Batch) -> Batch:
        """The batch with its tensors on the network's device."""
        return {key: value.to(self.device) if isinstance(value, Tensor) else value for key, value in batch.items()}

    def rank(self, batch: Batch) -> Tensor:
        """Exact log-probability of every gloss for every clip: float32 (B, K)."""
        return self.look(batch).log_probability

    def look(self, batch: Batch) -> RankOutput:
        """As `rank`, with the state (B, D) that each ranking came from."""
        if not batch["clip"]:
            widths = len(self.vocabulary), internvl.shape(self.network).hidden
            return RankOutput(*(torch.zeros(0, width, device=self.device) for width in widths))
        with torch.no_grad():
            return look(self.network, *self._prompts(batch), self.trie)

    def generate(self, batch: Batch, decoding: Decoding) -> list[str]:
        """Free text about every clip."""
        if not batch["clip"]:
            return []
        texts = generate(self.network, self._prompts(batch), self.inputs.end_id, decoding)
        return [self.inputs.decode(ids) for ids in texts]

    def beams(self, batch: Batch, beams: int, length: int) -> list[list[str]]:
        """Free texts about every clip by a beam search that may leave the vocabulary, best first."""
        if not batch["clip"]:
            return []
        texts = beam_search(self.network, self._prompts(batch), beams, length, self.inputs.end_id)
        return [[self.inputs.decode(beam) for beam in clip] for clip in texts]

    def _prompts(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        return self.features(batch), batch["input_ids"], batch["attention_mask"]

    def features(self, batch: Batch, rows: slice = ALL) -> Tensor:
        """Projected features (b, V, D) of some clips: from the batch if it has them, else from its frames."""
        if "frames" in batch:
            return self.encode(batch["frames"][rows])
        return batch["features"][rows].to(internvl.bare(self.network).model.vision_tower.dtype)

    def encode(self, frames: Tensor) -> Tensor:
        """Frames uint8 (B, T, 3, h, w) -> projected features (B, V, D), on the network's device, without graph."""
        tower = internvl.bare(self.network).model.vision_tower
        return internvl.encode_frames(self.network, self.inputs.normalise(frames.to(tower.device), tower.dtype))

    def restore(self, path: Path) -> dict[str, float]:
        """Load a checkpoint's adapter; returns the validation metrics that it was saved with.

        Raises:
            UserError: the file is no checkpoint of slr, or one of other layers or another vocabulary.
        """
        adapter, vocabulary, metrics = read_checkpoint(path)
        if vocabulary != self.vocabulary:
            raise UserError(f"expected a checkpoint of the same glosses at {path}, found others; use the run's own")
        lora.load_adapter_state(self.network, adapter)
        self.check_same_adapter()
        return metrics

    def check_same_adapter(self) -> None:
        """Compare the adapter with that of all other processes.

        Raises:
            UserError: they differ.
        """
        if distributed.place().world > 1:
            content = b"".join(t.view(torch.uint8).numpy().tobytes() for t in lora.adapter_state(self.network).values())
            distributed.assert_same_on_all_ranks("adapter", hashlib.sha256(content).hexdigest())


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], list[str], dict[str, float]]:
    """A checkpoint's adapter by the names in the network, its glosses, and its validation metrics.

    Raises:
        UserError: the file is no checkpoint of slr.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        adapter = {name.removeprefix("network."): tensor for name, tensor in content["state_dict"].items()}
        return adapter, content["vocabulary"], content["metrics"]
    except (OSError, EOFError, RuntimeError, KeyError, TypeError, AttributeError, UnpicklingError) as error:
        raise UserError(
            f"expected a checkpoint of slr at {path}, found another file ({error!r}); use best, last or another"
        ) from error
