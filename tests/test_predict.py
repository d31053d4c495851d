"""Refusals of `slr.load`; what it answers is held against a whole run in test_train."""

import subprocess
import sys

import pytest

import slr
from slr.errors import UserError


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="expected the folder of a run"):
        slr.load(tmp_path)
    with pytest.raises(UserError, match="expected the folder of a run"):
        slr.load(tmp_path / "it's = not, there")


def test_importing_slr_imports_nothing_heavy():
    code = "import sys, slr; assert not {'torch', 'numpy', 'lightning', 'transformers', 'av'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
