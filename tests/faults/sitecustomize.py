"""Python imports this at its start where its folder is in PYTHONPATH: a fault in a process of a test, at a set moment.

A fork of `tests/warm.py` runs it before the command begins.

The variable FAULT says `module:object.method:count:deed`, several with commas between them; at the count-th call of
the method the process is killed (`kill`), exits (`exit`), raises (`raise`), or gets SIGTERM or SIGINT (`term`, `int`),
or SIGTERM together with all processes of its group, as a scheduler sends it (`group`).
Or the process that has started it gets SIGUSR2, as where Slurm takes the machine of a job of submitit's (`preempt`).
Or it refuses as for something a user can mend (`refuse`).
A fault may end in `:word word`, words of the command line or of the environment (`RANK=1`) without which it does not
happen.
"""

import functools
import importlib.abc
import importlib.util
import os
import signal
import sys


def commit(deed: str) -> None:
    if deed == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif deed == "exit":
        sys.exit(3)
    elif deed == "raise":
        raise RuntimeError("a fault\non purpose")
    elif deed == "refuse":
        from slr.core.errors import UserError

        raise UserError("a fault on purpose")
    elif deed == "preempt":
        os.kill(os.getppid(), signal.SIGUSR2)
    elif deed == "group":
        os.killpg(0, signal.SIGTERM)
    else:
        signal.raise_signal({"term": signal.SIGTERM, "int": signal.SIGINT}[deed])


class Planted(importlib.abc.MetaPathFinder):
    def __init__(self, module: str, path: str, count: int, deed: str) -> None:
        self.module, self.path, self.count, self.deed = module, path, count, deed
        self.calls = 0

    def find_spec(self, name, path, target=None):
        if name != self.module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def load_and_plant(module):
            load(module)
            self.plant(module)

        spec.loader.exec_module = load_and_plant
        return spec

    def plant(self, module) -> None:
        *owners, name = self.path.split(".")
        owner = functools.reduce(getattr, owners, module)
        method = getattr(owner, name)

        @functools.wraps(method)
        def faulty(*arguments, **words):
            self.calls += 1
            if self.calls == self.count:
                commit(self.deed)
            return method(*arguments, **words)

        setattr(owner, name, faulty)


spoken = {*sys.orig_argv, *getattr(sys, "argv", ()), *(f"{name}={value}" for name, value in os.environ.items())}
for fault in filter(None, os.environ.get("FAULT", "").split(",")):
    module, path, count, deed, *words = fault.split(":")
    if spoken.issuperset(" ".join(words).split()):
        sys.meta_path.insert(0, Planted(module, path, int(count), deed))
