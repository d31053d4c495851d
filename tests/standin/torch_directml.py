"""What torch-directml offers to Python, on the stand-in's device; put before it on the path of a process."""

import os
import sys

import torch

torch.ops.load_library(os.environ["STANDIN_LIBRARY"])
torch.utils.rename_privateuse1_backend("privateuseone")  # since torch 2.5 autograd knows no device without this


def is_available() -> bool:
    return "STANDIN_ABSENT" not in os.environ


def device_count() -> int:
    return int(is_available())


def default_device() -> int:
    return 0


def device_name(number: int) -> str:
    return "the stand-in"


def device(number: int = 0) -> torch.device:
    return torch.device("privateuseone", number)


def current_device() -> int:
    return 0


# As torch-directml says of itself: random numbers are the CPU generator's, autocast does nothing.


def _is_in_bad_fork() -> bool:
    return False


def manual_seed_all(seed: int) -> None:
    torch.default_generator.manual_seed(seed)


def is_autocast_enabled() -> bool:
    return False


def set_autocast_enabled(enable: bool) -> None:
    pass


def get_autocast_dtype() -> torch.dtype:
    return torch.float16


def set_autocast_dtype(dtype: torch.dtype) -> None:
    pass


def get_amp_supported_dtype() -> list[torch.dtype]:
    return [torch.float16]


torch._register_device_module("privateuseone", sys.modules[__name__])
