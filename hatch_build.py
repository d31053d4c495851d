"""What a wheel has beside the packages; an editable install of a clone has it already, and would get a stale copy."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface  # pyright: ignore[reportMissingImports]

INSIDE = {"conf": "slr/conf", "train.py": "slr/programs/train.py"}  # what a sweep starts for each job


class Inside(BuildHookInterface):
    """Puts files of a clone inside the package."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Hatchling calls this once; `version` is `standard` or `editable`."""
        if version == "standard":
            build_data["force_include"] |= INSIDE
