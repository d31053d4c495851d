"""`python -m slr.doctor`."""

from slr.__main__ import run

run("doctor")
