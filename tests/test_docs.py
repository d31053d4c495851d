"""What the README, the pages of docs/ and CONTRIBUTING tell people: commands compose, names and paths exist."""

import ast
import re
import shlex
from pathlib import Path

import pytest

from slr.config import compose, help, jobs, overrides, schema

ROOT = Path(__file__).resolve().parent.parent
# log.md tells what was true on a day.
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(set(ROOT.glob("docs/*.md")) - {ROOT / "docs/log.md"})]
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
FOLDERS = ("slr", "conf", "docs", "tests", "benchmarks", "hydra_plugins", ".ci")


def blocks(text: str) -> list[str]:
    """The lines of a page's fenced blocks of shell, continued lines joined."""
    inside = re.findall(r"^ *```(?:bash|sh)?\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    return [line.strip() for block in inside for line in block.replace("\\\n", " ").splitlines()]


def commands(program: str) -> list[tuple[str, str]]:
    """(page, words) of each time a program is called in a block."""
    pattern = re.compile(rf"(?:^|\s)(?:python |uv run |srun |slr )(?:\S+ )*?{re.escape(program)}(?: (.*))?$")
    return [
        (page, re.split(r"\s+(?:#|&&|\|\|)\s*", found[1] or "")[0].strip())
        for page, text in TEXTS.items()
        for line in blocks(text)
        if (found := pattern.search(line.split("error:")[0]))
    ]


def as_words(typed: str) -> list[str]:
    """The words of a command, without the dots that stand for others."""
    return [word for word in shlex.split(typed) if word not in ("…", "...")]


TRAINING = [pair for program in ("train.py", "prepare_data.py") for pair in commands(program)]


def test_many_commands_are_shown():
    assert len(TRAINING) >= 20


@pytest.mark.parametrize(("page", "typed"), TRAINING)
def test_training_commands_compose(page, typed):
    words = overrides.quote_paths(as_words(typed))
    if "frame=8" in words:
        pytest.skip("is shown because it is refused")
    if any(word.startswith("resume=") for word in words):
        jobs.resumption(words)
    elif not overrides.asks_only(words):
        compose.register()
        assert jobs.configurations([word for word in words if not word.startswith(("stages=", "hydra.launcher"))])


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXTS[page]):
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert target.startswith("https://") or file.exists(), target
        assert not anchor or anchor in anchors(file.read_text(encoding="utf-8")), target


def anchors(text: str) -> set[str]:
    """The names by which headings of a page are linked to."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", TEXTS)
def test_paths_exist(page):
    quoted = re.findall(r"[`(\s](" + "|".join(map(re.escape, FOLDERS)) + r")(/[\w./*{},-]*)", TEXTS[page])
    for folder, rest in quoted:
        name = (folder + rest).rstrip(".,")
        for path in alternatives(name):
            assert list(ROOT.glob(path.rstrip("/"))), f"{page}: {name}"


def alternatives(name: str) -> list[str]:
    """What the shell makes of braces.

    >>> alternatives("a/{b,c}.py")
    ['a/b.py', 'a/c.py']
    """
    found = re.fullmatch(r"(.*)\{(.*)\}(.*)", name)
    return [f"{found[1]}{middle}{found[3]}" for middle in found[2].split(",")] if found else [name]


@pytest.mark.parametrize("page", TEXTS)
def test_names_in_the_code_exist(page):
    for name in re.findall(r"`(slr(?:\.\w+)+)", TEXTS[page].replace("slr.json", "")):
        assert exists(name), f"{page}: {name}"


def exists(name: str) -> bool:
    """Whether a dotted name is a module of slr, or something that one defines."""
    path = ROOT.joinpath(*name.split("."))
    if path.is_dir() or path.with_suffix(".py").is_file():
        return True
    file = path.parent.with_suffix(".py") if path.parent.with_suffix(".py").is_file() else path.parent / "__init__.py"
    return file.is_file() and path.name in defined(file)


def defined(file: Path) -> set[str]:
    """Names that a module's top level gives to functions, classes and values."""
    names = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


GROUPS = help.groups()


@pytest.mark.parametrize("page", TEXTS)
def test_settings_exist(page):
    quoted = re.findall(r"`([a-z_0-9]+(?:\.[a-z_0-9]+)*)=([\w|.,/-]*)", TEXTS[page])
    for key, value in quoted:
        if key in GROUPS:
            options = [one for one in re.split(r"[|,]", value) if one and one != one.upper()]
            assert set(options) <= {*GROUPS[key], "null"}, f"{page}: {key}={value}"
        elif "." in key and not key.startswith("hydra."):
            assert key in schema.key_types(), f"{page}: {key}"
