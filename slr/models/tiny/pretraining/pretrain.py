"""Make the tiny model's checkpoint from nothing: `python -m slr.models.tiny.pretraining.pretrain`.

Two stages, `seeing` and then `telling`, on lessons that are drawn on the way. The curve goes to standard output; the
same seed on the same machine with the same versions gives the same weights.
"""

import argparse
import time
from pathlib import Path

import torch

from slr.models.tiny.pretraining.build import CHECKPOINT, build_model, build_tokenizer, save_checkpoint
from slr.models.tiny.pretraining.seeing import train_seeing
from slr.models.tiny.pretraining.telling import fill_bank, judge, train_telling

SEEING_STEPS = 5000
SEEING_RATE = 2e-3
BANK = 10_000
"""Clips for the language side, seen once by the finished vision tower and told about several times."""
JUDGED = 640
"""Clips not trained on, by which the end is judged."""
TELLING_STEPS = 2000
TELLING_BATCH = 32
TELLING_RATE = 1.5e-3


def pretrain(folder: Path, seed: int, threads: int, workers: int, share: float = 1.0) -> None:
    """Train the tiny model and write its checkpoint; `share` shortens everything, for a trial.

    `threads` compute while `workers` other processes draw.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    begin = time.monotonic()

    def log(line: str) -> None:
        print(f"{time.monotonic() - begin:5.0f} s  {line}", flush=True)

    model = build_model(seed)
    seeing, bank_size, telling = (max(1, round(share * n)) for n in (SEEING_STEPS, BANK, TELLING_STEPS))
    train_seeing(model, seeing, SEEING_RATE, workers, log)
    bank = fill_bank(model, first=10_000_000, number=bank_size, workers=workers)
    log(f"drew and saw {bank_size} clips")
    heads = train_telling(model, build_tokenizer(), bank, telling, TELLING_BATCH, TELLING_RATE, seed, log)
    fresh = fill_bank(model, first=20_000_000, number=JUDGED, workers=workers)
    log(f"{JUDGED} fresh clips  {judge(model, heads, build_tokenizer(), fresh, TELLING_BATCH)}")
    save_checkpoint(model, folder)
    log(f"wrote {folder}")


def main() -> None:
    """Read the command line and pretrain."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=CHECKPOINT, help="where the checkpoint goes (the packaged one)")
    parser.add_argument("--seed", type=int, default=0, help="of the first weights and the order of lessons")
    parser.add_argument("--threads", type=int, default=1, help="that compute; another process draws meanwhile")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw")
    parser.add_argument("--share", type=float, default=1.0, help="of all steps, for a trial")
    options = parser.parse_args()
    pretrain(options.folder, options.seed, options.threads, options.workers, options.share)


if __name__ == "__main__":
    main()
