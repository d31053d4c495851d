"""The plain recipe: what a careful user of transformers, PEFT and bitsandbytes writes today, to compare ours with.

Chosen in its favour wherever there was a choice: labels on the answer alone; LoRA on the language layers alone; the
video processor's size and colours corrected (OpenGVLab/InternVL issues 1184 and 1222); no key-value cache in training;
weights in the compute dtype instead of `prepare_model_for_kbit_training`, which would make embeddings and norms
float32; checkpointing that is not reentrant, so that the frozen vision tower stays out of the graph; and no label
smoothing, for which `Trainer` would make one more tensor as large as the logits. It runs on the very network that ours
runs on.
"""

import contextlib
import dataclasses
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from measure import now
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset
from transformers import AutoConfig, AutoProcessor, Trainer, TrainerCallback, TrainingArguments

from slr.data.manifest import Clip

IGNORED = -100


def load_processor(folder: Path) -> Any:  # noqa: ANN401  transformers gives processors no common type
    """The checkpoint's `InternVLProcessor`, its video half corrected."""
    height, width = AutoConfig.from_pretrained(folder).vision_config.image_size
    processor = AutoProcessor.from_pretrained(folder)
    processor.video_processor.size = {"height": height, "width": width}
    processor.video_processor.image_mean = processor.image_processor.image_mean
    processor.video_processor.image_std = processor.image_processor.image_std
    return processor


class PlainClips(Dataset[dict[str, Tensor]]):
    """Decodes, samples and prepares a clip whenever it is asked for, as such recipes do: once an epoch."""

    def __init__(self, clips: Sequence[Clip], folder: Path, processor: Any, prompt: str, frames: int) -> None:  # noqa: ANN401
        """`clips` of the prepared data set in `folder`, each asked `prompt` about `frames` of its frames."""
        self.clips = clips
        self.folder = folder
        self.processor = processor
        self.prompt = prompt
        self.frames = frames

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        clip = self.clips[number]
        asked = self.processor.apply_chat_template(self._messages(), add_generation_prompt=True)
        spelled = clip.gloss + self.processor.tokenizer.eos_token
        sample = self.processor(text=[asked + spelled], videos=[self._decode(clip)], return_tensors="pt")
        answer = len(self.processor.tokenizer(spelled, add_special_tokens=False)["input_ids"])
        tokens = sample["input_ids"][0]
        labels = torch.full_like(tokens, IGNORED)
        labels[-answer:] = tokens[-answer:]
        return {"input_ids": tokens, "labels": labels, "pixel_values": sample["pixel_values"]}

    def _messages(self) -> list[dict[str, Any]]:
        return [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": self.prompt}]}]

    def _decode(self, clip: Clip) -> Any:  # noqa: ANN401  uint8 array (T, H, W, 3)
        import decord

        video = decord.VideoReader(str(self.folder / clip.file), num_threads=1)
        middles = [(2 * part + 1) * len(video) // (2 * self.frames) for part in range(self.frames)]
        return video.get_batch(middles).asnumpy()


@dataclasses.dataclass(frozen=True)
class Together:
    """Puts samples beside one another, padded on the right."""

    pad_id: int

    def __call__(self, samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """B samples as one batch; frames of all clips follow one another, as the processor lays them out."""
        tokens = pad_sequence([one["input_ids"] for one in samples], batch_first=True, padding_value=self.pad_id)
        lengths = torch.tensor([len(one["input_ids"]) for one in samples])
        return {
            "input_ids": tokens,
            "attention_mask": (torch.arange(tokens.shape[1]) < lengths[:, None]).long(),
            "labels": pad_sequence([one["labels"] for one in samples], batch_first=True, padding_value=IGNORED),
            "pixel_values": torch.cat([one["pixel_values"] for one in samples]),
        }


class Clock(TrainerCallback):
    """When each optimiser step ended."""

    def __init__(self, device: torch.device) -> None:
        """Waits for what `device` was given."""
        self.device = device
        self.ends: list[float] = []

    def on_step_end(self, *_: object, **__: object) -> None:
        """`Trainer` calls this."""
        self.ends.append(now(self.device))


def train(
    network: Any,  # noqa: ANN401
    clips: PlainClips,
    steps: int,
    batch: int,
    micro_batch: int,
    precision: str,
    checkpointing: bool,
    workers: int,
    device: torch.device,
) -> list[float]:
    """Train for some steps with transformers' `Trainer`; returns when each ended, in seconds.

    Give it more clips than the steps take: accelerate reads a batch ahead, so the last of all costs no reading.
    """
    clock = Clock(device)
    network.config.get_text_config().use_cache = False
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        settings = TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=micro_batch,
            gradient_accumulation_steps=batch // micro_batch,
            learning_rate=2e-4,
            weight_decay=0.01,
            lr_scheduler_type="cosine",
            warmup_steps=50,
            max_grad_norm=1.0,
            bf16=precision == "bf16-mixed",
            fp16=precision == "16-mixed",
            use_cpu=device.type == "cpu",
            dataloader_num_workers=workers,
            dataloader_pin_memory=device.type == "cuda",
            remove_unused_columns=False,  # it would go by the outer PEFT model's signature and drop the pixels
            label_names=["labels"],
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            **_checkpointing(checkpointing),
        )
        together = Together(clips.processor.tokenizer.pad_token_id)
        try:
            Trainer(network, settings, together, train_dataset=clips, callbacks=[clock]).train()
        finally:
            network.__dict__.pop("forward", None)  # accelerate wraps it for mixed precision, once more every time
    return clock.ends


def _checkpointing(wanted: bool) -> dict[str, Any]:
    """transformers 5.23 has renamed the settings, and warns of the old names."""
    names = {one.name for one in dataclasses.fields(TrainingArguments)}
    word = "activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing"
    return {word: wanted, f"{word}_kwargs": {"use_reentrant": False}} if wanted else {}


def loss(network: Any, batch: dict[str, Tensor], device: torch.device) -> Tensor:  # noqa: ANN401
    """transformers' own loss: full logits, shifted labels, mean over answer tokens."""
    return network(**{name: tensor.to(device) for name, tensor in batch.items()}).loss


@torch.no_grad()
def beams(network: Any, embedded: Tensor, attention_mask: Tensor, new_tokens: int, end_id: int) -> Tensor:  # noqa: ANN401
    """The five likeliest answers by beam search, token ids (B x 5, tokens): how top-5 is had without a trie.

    Takes the prompt with its features in place, (B, L, D). From pixels, transformers before 5.23 runs the vision tower
    once for every beam, and repeats each frame five times instead of the clip, so that beams see the first frames only.
    """
    return network.generate(
        inputs_embeds=embedded,
        attention_mask=attention_mask,
        num_beams=5,
        num_return_sequences=5,
        do_sample=False,
        early_stopping=True,
        max_new_tokens=new_tokens,
        eos_token_id=end_id,
        pad_token_id=end_id,
    )
