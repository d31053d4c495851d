"""What a doctor of a test is asked."""

from pathlib import Path

from slr.doctor.finding import Asked


def asked(folder: Path, **words) -> Asked:
    defaults = {"data": str(folder), "outputs": str(folder), "model": "tiny", "hardware": "auto", "frames": 8}
    return Asked(**defaults | {"batch": 16, "typed": (), "offline": True, "token": False} | words)
