"""What a search varies, for tests."""

from omegaconf import OmegaConf

from slr.config import search_space, sweep_name

OPTUNA = "hydra/sweeper=optuna"


def axis(word: str, composed: dict | None = None) -> search_space.Axis:
    [found], _ = sweep_name.axes([word], OmegaConf.create(composed or {}))
    return found
