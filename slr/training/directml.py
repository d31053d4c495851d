"""DirectML in Lightning's words.

Lightning trains on the CPU, without a word, when it is given the name or the class of an accelerator that it does not
know; it must be told the strategy.
"""

from typing import Any

import torch
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.strategies import SingleDeviceStrategy

from slr.core import directml


class DirectMl(Accelerator):
    """One graphics card by DirectX 12."""

    def setup_device(self, device: torch.device) -> None:
        """Nothing is to be done but to see that it is such a device.

        Raises:
            ValueError: it is another.
        """
        if device.type != "privateuseone":
            raise ValueError(f"expected DirectML's device, found {device}")

    def teardown(self) -> None:
        """Nothing is held."""

    def get_device_stats(self, device: str | torch.device) -> dict[str, Any]:
        """Nothing: DirectML does not tell."""
        return {}

    @staticmethod
    def parse_devices(devices: Any) -> Any:  # noqa: ANN401
        """As given: there is one."""
        return devices

    @staticmethod
    def get_parallel_devices(devices: Any) -> list[torch.device]:  # noqa: ANN401
        """The default device."""
        return [directml.device()]

    @staticmethod
    def auto_device_count() -> int:
        """One."""
        return 1

    @staticmethod
    def is_available() -> bool:
        """Whether torch-directml has a device here."""
        return directml.absent() is None

    @staticmethod
    def name() -> str:
        """As in `hardware=directml`."""
        return "directml"


def strategy() -> SingleDeviceStrategy:
    """All work on the default device."""
    return SingleDeviceStrategy(device=directml.device(), accelerator=DirectMl())
