"""From a clip and its words to the tensors that InternVL reads. Holds no weights."""

import json
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from slr.core.errors import UserError
from slr.models.hub import locate
from slr.models.memory_plan import shape_of

BICUBIC = 3  # PIL's number, as processor files write it


@dataclass(eq=False)
class Inputs:
    """One checkpoint's tokens and pixels, equal to those of transformers' `InternVLProcessor` for the same clip.

    Size comes from the vision tower's configuration, mean and deviation from the *image* processor: the video processor
    that InternVL3.5 ships has 384 x 384 pixels and CLIP's colours (OpenGVLab/InternVL issues 1184 and 1222), and needs
    torchvision.

    Pickles to a few kilobytes, without the tokenizer, which is loaded again only for words that are new.
    """

    folder: Path  # of the tokenizer's files
    image_size: tuple[int, int]  # (h, w) in pixels
    mean: tuple[float, ...]  # of each channel, for pixels in 0..1
    std: tuple[float, ...]
    tokens_per_frame: int
    image_token_id: int  # the placeholder of a frame's tokens
    _prompts: dict[tuple[str, int], tuple[int, ...]] = field(default_factory=dict, init=False)
    _answers: dict[str, tuple[int, ...]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        names = ("eos_token", "pad_token")
        self.end_id, self.pad_id = (self._words.convert_tokens_to_ids(self._special(name)) for name in names)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_words"}

    @cached_property
    def _words(self) -> Any:  # noqa: ANN401
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.folder, trust_remote_code=False)

    def prompt_ids(self, prompt: str, frames: int) -> list[int]:
        """Tokens of a user's message with a video of `frames` frames and the prompt, up to where the answer begins.

        Raises:
            UserError: the prompt holds one of the tokenizer's special tokens.
        """
        if (prompt, frames) not in self._prompts:
            self._refuse_special_tokens(prompt, "prompt")
            content: Any = [{"type": "video"}, {"type": "text", "text": prompt}]
            text = self._words.apply_chat_template(
                [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
            )
            text = str(text).replace(self._special("video_token"), self._frames_as_text(frames))
            self._prompts[prompt, frames] = tuple(self._words.encode(text, add_special_tokens=False))
        return list(self._prompts[prompt, frames])

    def answer_ids(self, gloss: str) -> list[int]:
        """Tokens of a gloss as the assistant's answer, and the token that ends it.

        Raises:
            UserError: the gloss is blank, holds a special token, or cannot be spelled in the tokenizer's alphabet.
        """
        if gloss not in self._answers:
            if not gloss.strip():
                raise UserError(f"expected a gloss with at least one letter, found {gloss!r}; correct the labels")
            self._refuse_special_tokens(gloss, "gloss")
            ids = self._words.encode(gloss, add_special_tokens=False)
            spelled = self.decode(ids)
            if spelled != unicodedata.normalize("NFC", gloss):  # Qwen's tokenizer composes letters and their accents
                raise UserError(
                    f"expected a gloss that the tokenizer of {self.folder} can spell, found {gloss!r}, which it reads "
                    f"as {spelled!r}; rename the gloss"
                )
            self._answers[gloss] = (*ids, self.end_id)
        return list(self._answers[gloss])

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, special tokens written out."""
        return str(self._words.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def resize(self, frames: np.ndarray) -> torch.Tensor:
        """Frames uint8 (T, H, W, 3) -> uint8 (T, 3, h, w), bicubic with antialiasing, not keeping the aspect ratio.

        Computed in uint8, which is bit-equal to torchvision; through floats, noise differs by up to 23 levels.
        """
        own = frames if frames.flags.writeable else frames.copy()  # torch warns about read-only arrays
        pixels = torch.from_numpy(own).permute(0, 3, 1, 2)
        if tuple(pixels.shape[-2:]) != self.image_size:
            pixels = torch.nn.functional.interpolate(pixels, self.image_size, mode="bicubic", antialias=True)
        return pixels.contiguous()

    def normalise(self, frames: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Frames uint8 (..., 3, h, w) -> `dtype` of the same shape, on their device, mean 0 and deviation 1 a channel.

        Computed in float32 with the division by 255 folded into mean and deviation, as transformers does it.
        """
        mean, std = (
            (torch.tensor(values, device=frames.device) * 255.0).view(-1, 1, 1) for values in (self.mean, self.std)
        )
        return frames.to(torch.float32).sub_(mean).div_(std).to(dtype)

    def _frames_as_text(self, frames: int) -> str:
        """What `InternVLProcessor` writes in place of the video token."""
        start, context, end = (self._special(f"{part}_token") for part in ("start_image", "context_image", "end_image"))
        one = f"{start}{context * self.tokens_per_frame}{end}"
        return "\n".join(f"Frame{number + 1}: {one}" for number in range(frames))

    def _special(self, name: str) -> str:
        token = self._words.special_tokens_map.get(name)
        if token is None:
            raise UserError(
                f"expected {name} among the special tokens of {self.folder}, found none; use an -hf checkpoint"
            )
        return str(token)

    def _refuse_special_tokens(self, text: str, kind: str) -> None:
        for token in self._words.get_added_vocab():
            if token in text:
                raise UserError(
                    f"expected a {kind} in plain words, found the tokenizer's special token {token} in {text!r}; "
                    f"remove it (frames are added automatically)"
                )


def load_inputs(checkpoint: str, revision: str | None) -> Inputs:
    """Load a checkpoint's tokenizer, frame size, colours and tokens per frame.

    Raises:
        UserError: the checkpoint cannot be found, or prepares frames in a way that is not InternVL's.
    """
    folder = locate(checkpoint, revision, need_weights=False)
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if config.model_type != "internvl":
        raise UserError(f"expected an InternVL checkpoint (-hf) in {folder}, found {config.model_type}; use another")
    height, width = config.vision_config.image_size
    tokens = (shape_of(config.to_dict()).patches - 1) * config.downsample_ratio**2
    if tokens != config.image_seq_length:
        raise UserError(
            f"expected image_seq_length in {folder}/config.json to be {tokens:g}, as its image_size, patch_size and "
            f"downsample_ratio make it, found {config.image_seq_length}; correct the file"
        )
    mean, std = _colours(folder)
    return Inputs(folder, (height, width), mean, std, config.image_seq_length, config.image_token_id)


def _colours(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of the image processor, whose settings have a file of their own or a place in a common one."""
    alone, common = folder / "preprocessor_config.json", folder / "processor_config.json"
    settings = json.loads(alone.read_text()) if alone.is_file() else json.loads(common.read_text())["image_processor"]
    expected = {"resample": BICUBIC, "do_resize": True, "do_rescale": True, "do_normalize": True}
    expected |= {"rescale_factor": 1 / 255}
    wrong = [key for key, value in expected.items() if not math.isclose(settings.get(key, value), value, rel_tol=1e-6)]
    if wrong := wrong + [key for key in ("image_mean", "image_std") if key not in settings]:
        raise UserError(
            f"expected an image processor like InternVL's in {folder}, found {wrong[0]} = {settings.get(wrong[0])}; "
            f"use a checkpoint of the InternVL family"
        )
    return tuple(settings["image_mean"]), tuple(settings["image_std"])
