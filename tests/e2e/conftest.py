"""Tests of commands as processes: their mark, and the demo as the README starts it."""

from pathlib import Path

import pytest
from entry import ONE_FRAME, command, only_run

from slr.core.locks import exclusive


@pytest.hookimpl(tryfirst=True)  # before -m selects by marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def trained(workplace: Path) -> tuple[Path, str]:
    """The demo, trained once: the run's folder and what was printed."""
    return once(workplace, "demo")


@pytest.fixture(scope="session")
def one_frame(workplace: Path) -> Path:
    """The demo that sees one frame of each clip, ranked 16 by 16: the run's folder."""
    return once(workplace, "one", *ONE_FRAME)[0]


def once(workplace: Path, name: str, *words: str) -> tuple[Path, str]:
    """A demo that one of the session's workers trains."""
    outputs, printed = workplace / name, workplace / f"{name}.txt"
    outputs.mkdir(exist_ok=True)
    with exclusive(outputs):
        if not printed.exists():
            said = command("train.py", "experiment=demo", *words, f"outputs={outputs}", f"data={workplace / 'data'}")
            printed.write_text(said, encoding="utf-8")
    return only_run(outputs), printed.read_text(encoding="utf-8")
