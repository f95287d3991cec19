"""What is known of items beside what users do with them."""

from __future__ import annotations

import random

import numpy as np

from models.base import state_digest
from models.reco.catalogue import Catalogue


def test_a_restored_catalogue_goes_on_alike() -> None:
    """Whatever left before: items that come later take other places, and that shows nowhere."""
    rng = random.Random(7)
    one, other = Catalogue(1000), Catalogue(1000)
    for n in range(2000):
        if n % 50 == 0:
            other = Catalogue(1000)
            other.restore(one.state())
        key = rng.randrange(1, 40)
        for catalogue in (one, other):
            if n % 3 == 0:
                catalogue.forget(key)
            else:
                catalogue.heard(key, f"item {key}", n)
                catalogue.told(key, n % 7 == 0 or None, ["a"] if n % 5 == 0 else None)
        assert state_digest(one.state()) == state_digest(other.state())
        for categories in ((), ("a",)):
            kept = (np.sort(c.kept_out(n + 900, categories)) for c in (one, other))
            assert np.array_equal(*kept)


def test_only_what_is_kept_stays() -> None:
    """The others are unknown, their categories too."""
    catalogue = Catalogue(None)
    for key in range(1, 200):
        catalogue.heard(key, str(key), key)
        catalogue.told(key, None, [str(key % 3)])
    catalogue.keep({5, 6})
    assert len(catalogue) == 2
    assert catalogue.text(7) is None
    assert sorted(catalogue.keys().tolist()) == [5, 6]
    assert catalogue.kept_out(0, ["2"]).tolist() == [6]
