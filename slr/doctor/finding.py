"""What a check says, what was asked of it, and how its words travel from the child."""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

OK, WARNING, FAULT = "ok", "warning", "fault"
SIGN = "\x1e"  # begins a line of ours; libraries print whatever they like


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's.

    Attributes:
        check: what was looked at.
        state: ok, warning or fault.
        found: what it is like.
        remedy: what to do; empty where all is well.
    """

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


@dataclass(frozen=True)
class Asked:
    """What was typed, or is assumed.

    Attributes:
        data, outputs: folders.
        model: an option of conf/model, a folder or a hub name.
        hardware: an option of conf/hardware.
        frames, batch: of a training step.
        typed: the keys that a person typed; what was asked for and cannot be had is a fault, else a warning.
        offline: whether the hub is not to be asked.
        token: whether the environment has one; its value goes nowhere.
    """

    data: str
    outputs: str
    model: str
    hardware: str
    frames: int
    batch: int
    typed: tuple[str, ...]
    offline: bool
    token: bool

    def lacking(self, *keys: str) -> str:
        """The state of what is missing: a fault where one of `keys` was typed."""
        return FAULT if set(keys) & set(self.typed) else WARNING


@dataclass(frozen=True)
class Check:
    """A thing to look at.

    Attributes:
        name: of it.
        look: the function; it may raise, hang or end the process.
        remedy: where it does.
    """

    name: str
    look: Callable[[Asked], Iterable[Finding]]
    remedy: str


class NotLooked(Exception):
    """What a check needs does not work, which another check says."""


def looked(check: Check, asked: Asked) -> list[Finding]:
    """What a check finds; an exception of any kind is a finding too."""
    try:
        return list(check.look(asked))
    except NotLooked as error:
        return [Finding(check.name, WARNING, f"not looked at: {error}", "mend that first")]
    except (Exception, SystemExit) as error:
        said = (str(error).strip() or "no message").splitlines()
        return [Finding(check.name, FAULT, f"{type(error).__name__}: {said[0][:300]}", check.remedy)]


def tell(check: Check, asked: Asked) -> None:
    """Look, and print that it begins and what was found: a line each, for `told`."""
    print(f"\n{SIGN}{json.dumps({'begun': check.name})}", flush=True)
    found = [asdict(finding) for finding in looked(check, asked)]
    print(f"\n{SIGN}{json.dumps({'done': check.name, 'found': found})}", flush=True)


def told(output: str) -> tuple[dict[str, list[Finding]], str | None]:
    """The findings of the checks that `tell` has finished, and the one that it has begun only."""
    done, open_ = {}, None
    for line in output.split("\n"):  # splitlines would cut at the sign itself
        if not line.startswith(SIGN):
            continue
        try:
            said = json.loads(line.removeprefix(SIGN))
        except ValueError:  # cut off
            continue
        if "begun" in said:
            open_ = said["begun"]
        else:
            done[said["done"]], open_ = [Finding(**finding) for finding in said["found"]], None
    return done, open_
