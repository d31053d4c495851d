"""`python -m slr.export`."""

from slr.__main__ import run

if __name__ == "__main__":
    run("export")
