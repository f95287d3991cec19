"""What bits depend on beside the code: the kind of processor and the libraries' versions.

Compiled code repeats bit for bit on one kind of processor; libm, BLAS and torch choose other code
on another. Checkpoints and the journal carry this: a replay elsewhere is told from a defect.
"""

from __future__ import annotations

import hashlib
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_LIBRARIES = ("numpy", "numba", "river", "torch")


@cache
def fingerprint() -> dict[str, str]:
    """Processor, Python and library versions of this process; cached."""
    found = {"cpu": _processor(), "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def _processor() -> str:
    """Machine type and a hash of the processor's feature flags."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    features = " ".join(sorted(flags.partition(":")[2].split()))
    return f"{platform.machine()} {hashlib.sha256(features.encode()).hexdigest()[:16]}"
