"""`slr COMMAND …` or `python -m slr COMMAND …`: all commands, each in a module of its own in slr/commands."""

import difflib
import importlib
import sys

from slr.core.errors import explained

COMMANDS = {
    "train": "fine-tune a model, or run a sweep of many such runs with -m",
    "evaluate": "rank a part of a run's clips and write a report",
    "prepare": "turn a data set's videos into verified clips",
    "predict": "name the signs in your own videos",
    "compare": "say which of several runs is better, and whether the difference is real",
    "ladder": "compare a model with simpler ones, from guessing upwards",
    "audit": "count what the parts of a split share",
    "export": "write a run's model into a folder for other machines",
    "doctor": "check whether everything will run here, and how much memory it needs",
}


def run(command: str) -> None:
    """Run a command with the words of `sys.argv`; exit with the code that it returns, unless that is 0 or None."""
    if code := explained(lambda: importlib.import_module(f"slr.commands.{command}").main()):
        sys.exit(code)


def main() -> None:
    """Run the command that was typed; print the list of commands where none was."""
    command, *words = sys.argv[1:] or ["--help"]
    if command in ("-h", "--help"):
        print("usage: slr COMMAND [KEY=VALUE …]; slr COMMAND --help explains one of them\n")
        print("\n".join(f"  {name:<10}{what}" for name, what in COMMANDS.items()))
        return
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, 1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(COMMANDS)}"
        print(f"error: {command}: no such command; {hint}", file=sys.stderr)
        sys.exit(2)
    sys.argv = [f"slr {command}", *words]
    run(command)


if __name__ == "__main__":
    main()
