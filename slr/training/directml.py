"""DirectML as a Lightning strategy: with an accelerator that it does not know, Lightning trains on the CPU silently."""

import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy

from slr.core import directml


class DirectMl(CPUAccelerator):
    """One graphics card by DirectX 12. The strategy names the device; all else is as for one CPU."""

    def setup_device(self, device: torch.device) -> None:
        """Check that it is DirectML's; raises ValueError if it is another."""
        if device.type != "privateuseone":
            raise ValueError(f"expected DirectML's device, found {device}")

    @staticmethod
    def name() -> str:
        """As in `hardware=directml`."""
        return "directml"


def strategy() -> SingleDeviceStrategy:
    """All work on the default device."""
    return SingleDeviceStrategy(device=directml.device(), accelerator=DirectMl())
