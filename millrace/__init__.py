"""Millrace from Python: score tables, teach labels as they come, keep what was learned.

Examples
--------
>>> import millrace  # doctest: +SKIP
>>> engine = millrace.load("payments.toml")  # doctest: +SKIP
>>> scores = engine.score(payments)  # doctest: +SKIP
>>> engine.learn(known["id"], known["fraud"])  # doctest: +SKIP
>>> engine.save("saved")  # doctest: +SKIP
>>> engine = millrace.open("saved", "payments.toml")  # doctest: +SKIP
"""

# isort: off
from millrace import shadow

shadow.check()  # before anything of ours is imported by its plain name

from millrace.engine import Engine, Learned, load, open  # noqa: E402
from models.base import MillraceError  # noqa: E402

__all__ = ["Engine", "Learned", "MillraceError", "load", "open"]
