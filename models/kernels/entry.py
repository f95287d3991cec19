"""Entry points: the kernels that Python calls, compiled on import and kept on disk.

Numba compiles a kernel anew when its own file has changed, but does not see that a helper in
another file has: the old code would run on. Here the name of a kept file follows from the source of
the helpers too, so that one name has one content and processes may compile side by side. Where it
lies Numba says: in ``NUMBA_CACHE_DIR``, else beside the source, else in the user's cache directory.
"""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba import njit
from numba.core.caching import CompileResultCacheImpl, FunctionCache

from models.kernels.common import RARE

_HELPERS = sorted(Path(__file__).parent.rglob("*.py"))


def entry(signature: Any) -> Callable[[Callable[..., Any]], Any]:
    """Compile a kernel for this one signature, or load what was kept of it.

    What the kernel calls, and the constants that it reads, are compiled into it: they stand in its
    own file or in this folder (a test sees to it).
    """

    def compiled(function: Callable[..., Any]) -> Any:
        kernel = njit(**RARE)(function)
        kernel._cache = _Cache(function)
        kernel.compile(signature)
        kernel.disable_compile()
        return kernel

    return compiled


def _digest(own: Path) -> str:
    """Of Numba's version, of all helpers and of a kernel's own file."""
    h = hashlib.blake2b(numba.__version__.encode(), digest_size=8)
    for path in (*_HELPERS, own):
        h.update(hashlib.blake2b(path.read_bytes()).digest())
    return h.hexdigest()


class _Kept(CompileResultCacheImpl):
    """Names the files of one kernel: ``module.function-DIGEST.pyXY``."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.digest = _digest(Path(inspect.getfile(function)))
        super().__init__(function)

    def get_filename_base(self, fullname: str, abiflags: str) -> str:
        return f"{fullname}-{self.digest}.py{sys.version_info[0]}{sys.version_info[1]}{abiflags}"


class _Cache(FunctionCache):
    _impl_class = _Kept

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a compiled kernel, and remove what was kept of it from older sources."""
        super().save_overload(sig, data)
        mine = self._impl.filename_base
        every = mine.replace(self._impl.digest, "*")
        for path in Path(self.cache_path).glob(f"{every}.*nb[ic]"):
            if not path.name.startswith(mine):
                path.unlink(missing_ok=True)
