"""DirectML's device, by torch-directml, which is imported only when needed."""

import importlib
import importlib.util
from typing import Any

import torch

MODULE = "torch_directml"
INSTALL = "on Windows or WSL: uv sync --python 3.12 --extra directml --no-group newest"


def absent() -> str | None:
    """Why there is no such device here, and what to do, in one line; None if there is one."""
    if importlib.util.find_spec(MODULE) is None:
        return f"torch-directml is not installed ({INSTALL})"
    try:
        found = _module().device_count()
    except (ImportError, OSError, RuntimeError) as error:  # Linux without WSL: no libd3d12, or an error by number
        why = str(error).strip().partition("\n")[0]
        return f"torch-directml cannot start ({why}); it needs DirectX 12: Windows, or WSL and its graphics driver"
    return None if found else "torch-directml sees no device; update the graphics driver"


def device() -> torch.device:
    """torch-directml's default device."""
    return torch.device(_module().device())


def name() -> str:
    """The name of the default device."""
    return str(_module().device_name(_module().default_device()))


def _module() -> Any:  # noqa: ANN401
    return importlib.import_module(MODULE)
