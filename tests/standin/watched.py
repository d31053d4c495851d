"""`train.py`, and into the file WATCHED which operators met which devices, in steps and in rankings."""

import functools
import json
import os
import runpy
from collections import Counter
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from slr.models.sign_model import SignModel
from slr.training.module import SignModule

met: Counter[tuple[str, str]] = Counter()


class Watch(TorchDispatchMode):
    """Sees every operator below autograd, those of the backward pass too."""

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        tensors = [one for one in tree_leaves((args, kwargs, result)) if isinstance(one, torch.Tensor) and one.dim()]
        met[str(operator), " ".join(sorted({one.device.type for one in tensors}))] += 1
        return result


def watched(method):
    @functools.wraps(method)
    def inner(recognizer, *args, **kwargs):
        # Before the training there is the preflight, which computes on the CPU on purpose.
        if not met and getattr(recognizer, "_trainer", None) is None:
            return method(recognizer, *args, **kwargs)
        with Watch():
            return method(recognizer, *args, **kwargs)

    return inner


if __name__ == "__main__":
    SignModule.training_step = watched(SignModule.training_step)
    SignModel.look = watched(SignModel.look)
    try:
        runpy.run_path(str(Path(__file__).parents[2] / "train.py"), run_name="__main__")
    finally:
        rows = [[operator, devices, count] for (operator, devices), count in met.items()]
        Path(os.environ["WATCHED"]).write_text(json.dumps(rows), encoding="utf-8")
