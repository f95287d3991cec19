"""What last bits depend on: the kind of processor, the libraries' versions, the compiled kernels.

Compiled code repeats bit for bit on one kind of processor; libm, BLAS and torch choose other code
on another, a changed kernel rounds otherwise, and another tz database may know other local times.
Checkpoints and the journal carry this: a replay elsewhere is told from a defect.
"""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_LIBRARIES = ("numpy", "numba", "river", "torch", "tzdata")
_ROOT = Path(__file__).parents[2]
_PACKAGES = ("models", "monitoring", "stream")


@cache
def fingerprint() -> dict[str, str]:
    """Processor, Python, library versions and kernels of this process; cached."""
    found = {"cpu": _processor(), "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found | {"kernels": _kernels()}


@cache
def sources() -> str:
    """SHA-256 of the source of Millrace as it is installed here; cached."""
    h = hashlib.sha256()
    for package in _PACKAGES:
        for path in sorted((_ROOT / package).rglob("*.py")):
            h.update(path.relative_to(_ROOT).as_posix().encode() + b"\0")
            h.update(hashlib.sha256(path.read_bytes()).digest())
    return h.hexdigest()


def _kernels() -> str:
    """A digest of the source of every file that takes from ``models/kernels``, or is in it.

    A file with compiled code does: its entry points are made there.
    """
    h = hashlib.blake2b(digest_size=8)
    for package in _PACKAGES:
        for path in sorted((_ROOT / package).rglob("*.py")):
            source = path.read_bytes()
            if b"models.kernels" in source:
                h.update(hashlib.blake2b(source).digest())
    return h.hexdigest()


def _processor() -> str:
    """Machine type and a hash of the processor's feature flags."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    features = " ".join(sorted(flags.partition(":")[2].split()))
    return f"{platform.machine()} {hashlib.sha256(features.encode()).hexdigest()[:16]}"
