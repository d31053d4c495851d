"""The page's headings are messages that the code has, and what it tells people to type is there."""

import ast
import re

import pytest
from entry import ROOT

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
OURS = re.findall(r"^### `(.+)`$", PAGE.split("## What others say")[0], re.MULTILINE)
SOURCES = [*(ROOT / "slr").rglob("*.py"), *ROOT.glob("*.py")]


def texts() -> list[str]:
    """Every string of the code, with … for what is put in, as one line."""
    found = []
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return [" ".join(text.split()) for text in found]


TEXTS = texts()


@pytest.mark.parametrize("heading", OURS)
def test_the_code_says_so(heading):
    pattern = re.compile(".*?".join(re.escape(piece) for piece in heading.split("…")))
    assert [text for text in TEXTS if pattern.search(text)], heading


def test_there_are_enough_to_find_one():
    assert len(OURS) >= 25
    assert len(set(OURS)) == len(OURS)


def test_links_lead_somewhere():
    pages = [ROOT / "docs" / name for name in ("troubleshooting.md", "install.md")]
    links = [link for page in pages for link in re.findall(r"\]\((?!http)([^)#]+)", page.read_text(encoding="utf-8"))]
    assert [link for link in links if not (ROOT / "docs" / link).is_file()] == []
