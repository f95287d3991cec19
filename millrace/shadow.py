"""Our packages have plain names, which a user's own folders may have too: told before it hurts."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("models", "monitoring", "stream")


def check(root: Path = Path(__file__).parents[1]) -> None:
    """Make sure that importing ``models``, ``monitoring`` and ``stream`` gives ours.

    Parameters
    ----------
    root : Path
        Where they stand: beside this package.

    Raises
    ------
    ImportError
        Another one comes first; the message names its path and what to do.
    """
    for name in PACKAGES:
        spec = find_spec(name)
        places = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
        if spec is not None and spec.origin is not None and not places:
            places = [Path(spec.origin)]
        if root / name in [place.resolve() for place in places] or (root / name) in places:
            continue
        found = str(places[0]) if places else "nothing"
        raise ImportError(
            f"millrace: expected the package {name!r} of Millrace ({root / name}), got {found}, "
            "which comes first on sys.path; rename that file or folder, or start Python from "
            "another directory (python -P leaves the script's own out)",
            name=name,
            path=found,
        )
