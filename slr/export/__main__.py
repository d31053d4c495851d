"""`python -m slr.export`."""

from slr.__main__ import run

run("export")
