"""`python -m slr.predict`."""

from slr.__main__ import run

run("predict")
