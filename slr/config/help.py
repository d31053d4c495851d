"""What `train.py --help` prints: the groups of `conf/`, and every key with its value, meaning and allowed values.

The files of `conf/` are read as text, since their comments say what the keys mean. Imports neither hydra nor torch.
"""

import re
import textwrap

from slr.config import schema
from slr.core.argv import help_row
from slr.core.env import CONF

EXAMPLES = {
    "experiment=demo": "drawn signers, a tiny model, minutes on a CPU",
    "hardware=cuda frames=8 lora.r=16": "WLASL on InternVL3.5-2B",
    "-m frames=4,8,16 lora.r=8,16": "a sweep: one run for each combination",
    "-m hydra/sweeper=optuna frames=4,8,16": "a search (docs/sweeps.md)",
    "resume=FOLDER": "continue a run",
    "--cfg job experiment=demo": "print the configuration that would run",
}
# Files whose keys are not on the page; of a group whose options have the same keys, one.
OPTIONS = ("hardware/auto", "dataset/wlasl", "dataset/folder", "dataset/synthetic")
OPTIONS += ("model/internvl3_5_2b", "lora/language", "trainer/ddp")
NOT_TYPED = ("name", "scope", "rule", "commit")  # set by the choice of an option, or by a run
LINE = re.compile(r"( *)(?:(\w+): *)?([^#]*?) *(?:# (.*))?")


def groups() -> dict[str, list[str]]:
    """The groups of `conf/` and their options, read from the folder."""
    folders = sorted(path for path in CONF.iterdir() if path.is_dir())
    return {folder.name: sorted(file.stem for file in folder.glob("*.yaml")) for folder in folders}


def rows(text: str) -> list[tuple[str, str, str]]:
    """(key, value, comment) of each key in YAML, and ("", "", comment) of each comment on a line of its own.

    >>> rows("# A run\\nseed: 0  # of the\\n         # order\\nlora:\\n  r: 16")
    [('', '', 'A run'), ('seed', '0', 'of the order'), ('lora', '', ''), ('lora.r', '16', '')]
    """
    rows: list[tuple[str, str, str]] = []
    group = ""
    for line in text.splitlines():
        indent, key, value, comment = [part or "" for part in LINE.fullmatch(line).groups()]  # pyright: ignore
        if key:
            group = group if indent else key
            rows.append((f"{group}.{key}" if indent else key, value, comment))
        elif comment and indent:
            rows[-1] = (*rows[-1][:2], f"{rows[-1][2]} {comment}")
        elif comment:
            rows.append(("", "", comment))
    return rows


def allowed(key: str, option: str = "") -> str:
    """What the value of a key may be; nothing where the schema has no rule. `option` is that of the group dataset."""
    group, _, name = key.rpartition(".")
    kind: type = schema.fields(schema.Config)[group] if group else schema.Config
    kind = schema.DATASETS[option] if group == "dataset" else kind
    plain = {bool: "true or false", int: "a whole number", float: "a number"}.get(schema.fields(kind)[name])
    rule = schema.rules(kind).get(name)
    return ", ".join(filter(None, [plain, rule and rule.words]))


def _line(key: str, value: str, comment: str, option: str = "") -> str:
    """A key with its value on the left and what it means on the right, or a heading."""
    if not key:
        return f"\n{comment}"
    values = allowed(key, option)
    text = f"{comment} [{values}]" if values else comment
    return help_row(f"{key}={'TEXT' if value == '>-' else value}", text, 34)


def text() -> str:
    """The help of `train.py`."""
    lines = ["slr trains a vision-language model to name the sign in a short video. (`train.py` is `slr train`.)", ""]
    lines += [f"  slr train {words:46} {does}" for words, does in EXAMPLES.items()]
    lines += ["", "Groups: GROUP=OPTION chooses an option; GROUP.KEY=VALUE changes one key of it."]
    chosen = dict(re.findall(r"^  - (\w+): (\w+)$", (CONF / "train.yaml").read_text(encoding="utf-8"), re.MULTILINE))
    for group, options in groups().items():
        default = f" (default: {chosen[group]})" if chosen.get(group) in options else ""
        lines.append(f"  {group:12} {', '.join(options)}{default}")
    lines += ["", "Keys: KEY=VALUE, with the default; in [ ] what is allowed."]
    page = (CONF / "train.yaml").read_text(encoding="utf-8").partition("\nhydra:")[0].partition("\n\n")[2]
    lines += [_line(*row) for row in rows(page) if row[1] or not row[0]]
    for file in OPTIONS:
        group, _, option = file.partition("/")
        content = rows((CONF / f"{file}.yaml").read_text(encoding="utf-8"))
        about = [comment for key, _, comment in content if not key]
        lines.append("\n" + textwrap.fill(": ".join([f"{group}={option}", *about]), 110))
        own = [row for row in content if row[0] not in ("", "defaults", *NOT_TYPED)]
        lines += [_line(f"{group}.{key}", value, comment, option) for key, value, comment in own]
    return "\n".join(lines)
