"""Make the tiny model's checkpoint, from random weights of its config.json: `python -m slr.tiny_pretraining.pretrain`.

Two stages, vision and then language, on clips that are drawn on the way. The curve goes to standard output; the same
seed on the same machine with the same versions gives the same weights.
"""

import argparse
import shutil
from pathlib import Path

import torch
from transformers import InternVLConfig, InternVLForConditionalGeneration

from slr.models.hub import PACKAGED
from slr.tiny_pretraining.language_stage import evaluate, fill_bank, train_language
from slr.tiny_pretraining.tokenizer import build_tokenizer
from slr.tiny_pretraining.vision_stage import train_vision

CHECKPOINT = PACKAGED["tiny"]
# Written by hand: these stay as they are in the packaged checkpoint, as the sizes in its config.json do.
BY_HAND = ("chat_template.jinja", "preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json")
VISION_STEPS = 5000
LANGUAGE_STEPS = 2000
BANK = 10_000  # clips for the language stage, whose features are computed once and used several times
HELD_OUT = 640  # clips not trained on, for the last line


def pretrain(folder: Path, seed: int, workers: int, share: float) -> None:
    """Train the tiny model and write its checkpoint; `share` shortens everything, for a trial."""
    torch.set_num_threads(1)  # the other core draws
    torch.manual_seed(seed)
    model = InternVLForConditionalGeneration(InternVLConfig.from_pretrained(CHECKPOINT))
    tokenizer = build_tokenizer()
    vision_steps, bank_size, language_steps = (max(1, round(share * n)) for n in (VISION_STEPS, BANK, LANGUAGE_STEPS))
    train_vision(model, vision_steps, workers)
    bank = fill_bank(model, first=10_000_000, number=bank_size, workers=workers)
    heads = train_language(model, tokenizer, bank, language_steps, seed)
    fresh = fill_bank(model, first=20_000_000, number=HELD_OUT, workers=workers)
    print(f"{HELD_OUT} fresh clips  {evaluate(model, heads, tokenizer, fresh)}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for name in BY_HAND if folder.resolve() != CHECKPOINT.resolve() else ():
        shutil.copy(CHECKPOINT / name, folder)


def main() -> None:
    """Read the command line and pretrain."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=CHECKPOINT, help="where the checkpoint goes (the packaged one)")
    parser.add_argument("--seed", type=int, default=0, help="of the first weights and the order of clips")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw")
    parser.add_argument("--share", type=float, default=1.0, help="of all steps, for a trial")
    pretrain(**vars(parser.parse_args()))


if __name__ == "__main__":
    main()
