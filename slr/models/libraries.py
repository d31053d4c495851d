"""Import the libraries behind a model in two thirds of the time that they take alone."""

import functools
import gc
import importlib
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any


def import_libraries(*others: str) -> None:
    """Import torch, transformers' InternVL, PEFT, bitsandbytes and other modules without collecting garbage.

    That saves a quarter of the time. bitsandbytes 0.50 decorates functions with `torch.compile`, which imports torch's
    compiler, a second of processor time; that is put off until such a function is called.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        import torch

        from slr.models import internvl  # noqa: F401  before bitsandbytes, which would warn

        if "bitsandbytes" not in sys.modules:
            compiler, torch.compile = torch.compile, functools.partial(compile_later, torch.compile)
            with suppress(ImportError):
                import bitsandbytes  # noqa: F401
            torch.compile = compiler
        import peft  # noqa: F401
        from transformers import InternVLForConditionalGeneration  # noqa: F401

        for name in others:
            importlib.import_module(name)
    finally:
        if was_enabled:
            gc.enable()


def compile_later(compiler: Callable[..., Any], function: Callable[..., Any], **options: Any) -> Callable[..., Any]:  # noqa: ANN401
    """What `compiler(function, **options)` returns, made at its first call.

    >>> half = compile_later(lambda function, **options: print("compiling") or function, lambda x: x / 2)
    >>> half(3), half(5)
    compiling
    (1.5, 2.5)
    """
    compiled = functools.cache(lambda: compiler(function, **options))
    return lambda *args, **words: compiled()(*args, **words)
