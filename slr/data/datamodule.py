"""The LightningDataModule: a shell over `slr.data.batches`, so that prediction needs no Lightning."""

import lightning as L
from torch.utils.data import DataLoader

from slr.data.batches import ClipData


class SignDataModule(L.LightningDataModule):
    """Batches of a prepared, divided data set for Lightning's trainer."""

    def __init__(self, data: ClipData) -> None:
        super().__init__()
        self.data = data

    def train_dataloader(self) -> DataLoader:
        """As `ClipData.train_dataloader`."""
        return self.data.train_dataloader()

    def val_dataloader(self) -> DataLoader:
        """As `ClipData.val_dataloader`."""
        return self.data.val_dataloader()
