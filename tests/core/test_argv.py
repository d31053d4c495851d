import pytest

from slr.core.argv import parse, whole_number
from slr.core.errors import UserError

DEFAULTS = {"run": None, "part": "test"}


@pytest.mark.parametrize("path", ["a b", "a,b", "a=b", "it's", "ä/ö", "${x}", "(1)"])
def test_any_path_passes_as_typed(path):
    assert parse([f"run={path}"], DEFAULTS, "usage")["run"] == path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run"], "expected key=value"),
        (["rum=x"], "did you mean run"),
        (["part=val"], "run is not given; usage: how"),
        (["run=x", "zzz=1"], "usage: how"),
    ],
)
def test_refusals(words, message):
    with pytest.raises(UserError, match=message):
        parse(words, DEFAULTS, "how")


def test_whole_number():
    assert whole_number("limit", "3", 1) == 3
    for bad in ("0", "-1", "x", "1.5"):
        with pytest.raises(UserError, match="at least 1"):
            whole_number("limit", bad, 1)
