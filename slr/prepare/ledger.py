"""What became of each thing so far, on disk as it comes: a process that is killed loses nothing that was noted."""

import json
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from slr.core.files import write_whole

Outcome = dict[str, Any]


class Ledger:
    """Outcomes by name, kept in a file of JSON and, while it is open, in a journal beside it of one line for each.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = Path(folder.name) / "source.json"
    >>> with Ledger(path, {"version": 1}, {}) as ledger:
    ...     ledger.note("a", {"frames": 8})
    >>> read_ledger(path)
    {'version': 1, 'outcomes': {'a': {'frames': 8}}}
    >>> folder.cleanup()
    """

    def __init__(self, path: Path, head: dict[str, Any], outcomes: dict[str, Outcome]) -> None:
        self.outcomes = outcomes
        self._path, self._head = path, head
        self._write()
        self._journal = _journal(path).open("w", encoding="utf-8")
        self._line(head)

    def note(self, name: str, outcome: Outcome) -> None:
        """Keep an outcome, in place of an earlier one of this name."""
        self.outcomes[name] = outcome
        self._line([name, outcome])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._journal.close()
            self._write()
        else:
            with suppress(OSError):  # what could not be written is made again; the first error is the one to tell
                self._journal.close()

    def _line(self, content: object) -> None:
        self._journal.write(json.dumps(content) + "\n")
        self._journal.flush()

    def _write(self) -> None:
        write_whole(self._path, json.dumps({**self._head, "outcomes": self.outcomes}, indent=1) + "\n")
        _journal(self._path).unlink(missing_ok=True)


def read_ledger(path: Path) -> dict[str, Any] | None:
    """The head of a ledger with its `outcomes`, those of an interrupted process included; None if there is none.

    Raises:
        OSError, ValueError: the file cannot be read or is no ledger.
    """
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    if not isinstance(kept, dict) or not isinstance(kept.setdefault("outcomes", {}), dict):
        raise ValueError(f"{type(kept).__name__} where outcomes are kept by name")
    head = {name: value for name, value in kept.items() if name != "outcomes"}
    with suppress(FileNotFoundError):
        lines = _journal(path).read_text(encoding="utf-8", errors="replace").split("\n")[:-1]  # the last may be half
        rows = [json.loads(line) for line in lines if line.endswith(("}", "]"))]
        if rows and rows[0] == head:  # else it belongs to a file that has since been replaced
            kept["outcomes"] |= dict(rows[1:])
    return kept


def _journal(path: Path) -> Path:
    return path.with_name(f".{path.name}.journal")
