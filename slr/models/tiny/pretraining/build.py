"""The files around the tiny model's weights: configuration, tokenizer, chat template, processor."""

import json
from pathlib import Path

import torch
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from slr.models.tiny.pretraining.tokenizer import CONTEXT_LENGTH, build_tokenizer

CHECKPOINT = Path(__file__).parents[1] / "checkpoint"
IMAGE_SIZE = 96
PATCH_SIZE = 12
TOKENS_PER_FRAME = (IMAGE_SIZE // PATCH_SIZE // 2) ** 2
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
CHAT_TEMPLATE = """\
{% for message in messages %}
    {%- set content = message['content'] %}
    {{- '<|im_start|>' ~ message['role'] ~ '\\n' }}
    {%- if content is string %}
        {{- content }}
    {%- else %}
        {%- for part in content %}
            {%- if part['type'] == 'text' %}
                {{- part['text'] }}
            {%- elif part['type'] == 'image' %}
                {{- '<IMG_CONTEXT>\\n' }}
            {%- elif part['type'] == 'video' %}
                {{- '<video>\\n' }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""


def build_config(tokenizer: PreTrainedTokenizerFast) -> InternVLConfig:
    """InternVL in small: the classes and the options of InternVL3.5-2B-hf, about a million parameters."""
    ids = tokenizer.get_vocab()
    vision = InternVLVisionConfig(
        image_size=(IMAGE_SIZE, IMAGE_SIZE),
        patch_size=(PATCH_SIZE, PATCH_SIZE),
        hidden_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=384,
        attention_bias=True,
        layer_scale_init_value=1.0,
    )
    text = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        intermediate_size=384,
        max_position_embeddings=CONTEXT_LENGTH,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        bos_token_id=None,
        eos_token_id=ids["<|im_end|>"],
        pad_token_id=ids["<|endoftext|>"],
        tie_word_embeddings=False,
    )
    return InternVLConfig(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        image_token_id=ids["<IMG_CONTEXT>"],
        image_seq_length=TOKENS_PER_FRAME,
        tie_word_embeddings=False,
    )


def build_model(seed: int) -> InternVLForConditionalGeneration:
    """The model with random weights drawn from the seed, fp32."""
    torch.manual_seed(seed)
    return InternVLForConditionalGeneration(build_config(build_tokenizer()))


def save_checkpoint(model: InternVLForConditionalGeneration, folder: Path) -> None:
    """Write everything that `from_pretrained` needs into the folder: weights, configuration, processor."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    pixels = {
        "data_format": "channels_first",
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "resample": 3,
        "rescale_factor": 1 / 255,
        "image_mean": list(MEAN),
        "image_std": list(STD),
        "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        "processor_class": "InternVLProcessor",
    }
    image = {"image_processor_type": "GotOcr2ImageProcessorFast", "crop_to_patches": False, **pixels}
    video = {"video_processor_type": "InternVLVideoProcessor", "do_sample_frames": False, **pixels}
    processor = {"processor_class": "InternVLProcessor", "image_seq_length": TOKENS_PER_FRAME}
    files = {"preprocessor_config": image, "video_preprocessor_config": video, "processor_config": processor}
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
