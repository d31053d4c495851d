"""What a doctor of a test is asked."""

from pathlib import Path

from slr.doctor.finding import DoctorArgs


def asked(folder: Path, **words) -> DoctorArgs:
    defaults = {"data": str(folder), "outputs": str(folder), "model": "tiny", "hardware": "auto", "frames": 8}
    return DoctorArgs(**defaults | {"batch": 16, "typed": (), "offline": True, "token": False} | words)
