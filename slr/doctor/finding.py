"""What the doctor is asked, what a check is, and what it finds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

from slr.core import argv
from slr.core.argv import Option
from slr.core.env import PROJECT

OK, WARNING, FAULT = "ok", "warning", "fault"
KINDS = ("cuda", "mps", "directml", "cpu")  # of hardware, best first


@dataclass(frozen=True)
class DoctorArgs(argv.Arguments):
    """Check whether everything will run here, and estimate the memory of a training step, here or on another card.

    What was typed and does not work is a fault, anything else that is missing a warning. Exit code: 1 with a fault.
    """

    command = "slr doctor"
    hardware: Annotated[str, Option("what you plan to use", ("auto", *KINDS))] = "auto"
    model: Annotated[str, Option("an option of conf/model, a folder, or a name on the hub")] = "internvl3_5_2b"
    frames: Annotated[int, Option("of a clip", least=1)] = 8
    batch: Annotated[int, Option("clips of an optimiser step", least=1)] = 16
    hardware__memory: Annotated[str | None, Option("of a card, here or not, such as 24GB", shown="free")] = None
    data: Annotated[str, Option("folder of the prepared clips", shown="data")] = str(PROJECT / "data")
    outputs: Annotated[str, Option("folder of the runs", shown="outputs")] = str(PROJECT / "outputs")
    json: Annotated[bool, Option("for programs")] = False
    typed: Sequence[str] = ()  # the keys among the words
    offline: bool = False  # whether the hub must not be asked
    token: bool = False  # whether the environment has one; its value goes nowhere

    def lacking(self, *keys: str) -> str:
        """The state of something that is missing: a fault if one of `keys` was typed."""
        return FAULT if set(keys) & set(self.typed) else WARNING


@dataclass(frozen=True)
class Finding:
    """One line of the doctor: what was checked, its state, what was found, and what to do."""

    check: str
    state: str
    found: str
    remedy: str = ""

    def line(self, width: int) -> str:
        """For a person.

        >>> Finding("disk", "fault", "1 GB free", "free some").line(6)
        'fault    disk    1 GB free → free some'
        """
        return f"{self.state:8} {self.check:{width}}  {self.found}" + (f" → {self.remedy}" if self.remedy else "")


class Problem(Exception):
    """What a check found wrong, what to do about it (empty: the check's own remedy), and how bad it is."""

    def __init__(self, found: str, remedy: str = "", state: str = FAULT) -> None:
        super().__init__(found)
        self.remedy, self.state = remedy, state


class Check(NamedTuple):
    """A check: its name, a function that returns what works (None: no line), and what to do where it fails.

    The function raises `Problem`, or any other exception, and may also hang or end its process.
    """

    name: str
    look: Callable[[DoctorArgs], str | None]
    remedy: str

    def run(self, args: DoctorArgs) -> Finding | None:
        """What is found; an exception of any kind is a finding too."""
        try:
            found = self.look(args)
        except Problem as problem:
            return Finding(self.name, problem.state, str(problem), problem.remedy or self.remedy)
        except (Exception, SystemExit) as error:
            return Finding(self.name, FAULT, describe_error(error), self.remedy)
        return Finding(self.name, OK, found) if found else None


def describe_error(error: BaseException) -> str:
    """An exception's type and the first line of its message."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0][:300]}"
