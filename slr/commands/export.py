"""Write a run's model into a folder for other machines: `slr export run=outputs/…`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from slr.core import argv, env
from slr.core.argv import Option
from slr.core.env import command
from slr.export.export import export, push, shown
from slr.predict.bundle import KINDS


@dataclass(frozen=True)
class ExportArgs(argv.Arguments):
    """Write a run's model into a folder that other machines can load, and check that it ranks as the run does."""

    command = "slr export"
    run: Annotated[Path, Option("folder of the run", shown="FOLDER")]
    weights: Annotated[str, Option("an adapter, or whole weights", KINDS)] = "adapter"
    to: Annotated[Path | None, Option("the folder to write", shown="RUN/export/WEIGHTS")] = None
    clips: Annotated[int, Option("clips of the test part for the check", least=1)] = 64
    push: Annotated[
        str | None,
        Option("OWNER/NAME on the model hub: uploads the folder as a private repository; needs HF_TOKEN", shown="no"),
    ] = None


def main() -> None:
    """Export what the command line names, and print the check's result."""
    args = argv.read(ExportArgs)
    env.begin()
    to = args.to or args.run / "export" / args.weights
    folder, parity = export(args.run, args.weights, to, args.clips)
    print(shown(parity))
    print(f"exported: {folder}")
    if args.push:
        print(f"pushed: {push(folder, args.push)}")
    print(f'next: {command("predict", f"run={folder} video=FILE")}, or in Python slr.load("{folder}")')
