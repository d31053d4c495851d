"""Tests of commands as processes: their mark, and the demo as the README starts it."""

from pathlib import Path

import pytest
from entry import command, only_run

from slr.exclusive import exclusive


@pytest.hookimpl(tryfirst=True)  # before -m selects by marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def trained(workplace: Path) -> tuple[Path, str]:
    """The demo, trained once: the run's folder and what was printed."""
    printed = workplace / "printed.txt"
    with exclusive(workplace):
        if not printed.exists():
            words = ["experiment=demo", f"outputs={workplace / 'demo'}", f"data={workplace / 'data'}"]
            printed.write_text(command("train.py", *words), encoding="utf-8")
    return only_run(workplace / "demo"), printed.read_text(encoding="utf-8")
