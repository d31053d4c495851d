"""The outcome of each clip or download: on disk as it comes, and as a progress bar."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from slr.core.errors import UserError
from slr.core.files import write_whole

Outcome = dict[str, Any]
Note = Callable[[str, Outcome], None]  # keeps the outcome of a name, in place of an earlier one
Item = TypeVar("Item")


@contextmanager
def open_ledger(path: Path, head: dict[str, Any], outcomes: dict[str, Outcome]) -> Iterator[Note]:
    """Write outcomes by name to a JSON file; gives the function that notes another one.

    While it is open, each outcome also goes to a journal beside the file, so a kill loses none.

    >>> import tempfile
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = Path(folder.name) / "source.json"
    >>> with open_ledger(path, {"version": 1}, {}) as note:
    ...     note("a", {"frames": 8})
    >>> read_ledger(path)
    {'version': 1, 'outcomes': {'a': {'frames': 8}}}
    >>> folder.cleanup()
    """
    _write(path, head, outcomes)
    with _journal(path).open("w", encoding="utf-8") as journal:

        def line(content: object) -> None:
            journal.write(json.dumps(content) + "\n")
            journal.flush()

        def note(name: str, outcome: Outcome) -> None:
            outcomes[name] = outcome
            line([name, outcome])

        line(head)
        yield note
    _write(path, head, outcomes)


def _write(path: Path, head: dict[str, Any], outcomes: dict[str, Outcome]) -> None:
    write_whole(path, json.dumps({**head, "outcomes": outcomes}, indent=1) + "\n")
    _journal(path).unlink(missing_ok=True)


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


def read_source(out: Path, kind: str) -> dict[str, Any]:
    """The ledger of a prepared data set; empty for a new folder.

    Raises:
        UserError: `out` holds something else than a data set of this kind.
    """
    files = (path for path in out.glob("**/*") if path.is_file())
    # A lock, or what a disk that was full before the first line left, is preparation's own. Listed before the ledger is
    # read, since another process may begin here meanwhile.
    foreign = next((path for path in files if path.name != ".lock" and not path.name.startswith(".source.json.")), None)
    try:
        source = read_ledger(out / "source.json")
    except (OSError, ValueError) as error:
        raise UserError(f"expected a prepared data set in {out}, found {error}; delete it or choose another") from None
    if source is None and foreign:
        raise UserError(f"expected a new folder or a prepared data set, found {foreign}; choose another")
    if source is not None and source.get("dataset") != kind:
        raise UserError(f"expected a prepared data set of the kind {kind} in {out}, found another; choose another")
    return source or {}


def outcomes_of(source: dict[str, Any] | None, head: dict[str, Any]) -> dict[str, Outcome]:
    """The outcomes of a ledger with this head; none of any other."""
    return source["outcomes"] if source and {name: source.get(name) for name in head} == head else {}


def show_progress(
    items: Iterable[Item], total: int, stage: str, unit: str, failed: Callable[[Item], bool]
) -> Iterator[Item]:
    """Pass items on and draw a bar on standard error: done, failed, left, rate and time left. No bar for no items."""
    if total == 0:
        return
    failures = 0
    with tqdm(total=total, desc=f"{stage:<6}", unit=unit, smoothing=0.1, dynamic_ncols=True) as bar:
        for done, item in enumerate(items, start=1):
            failures += failed(item)
            bar.set_postfix_str(f"{done - failures} done, {failures} failed, {total - done} left", refresh=False)
            bar.update()
            yield item


def _journal(path: Path) -> Path:
    return path.with_name(f".{path.name}.journal")
