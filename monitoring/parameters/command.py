"""What ``millrace params TARGET [--json]`` does."""

from __future__ import annotations

from rich.console import Console

from monitoring.parameters.counted import Counted, ParameterError
from monitoring.parameters.render import render
from monitoring.parameters.resolve import resolve
from monitoring.terminal import in_json

OK, DIFFERS, BAD_TARGET = 0, 1, 2


def params_command(target: str | Counted, as_json: bool, console: Console, errors: Console) -> int:
    """Count ``target``, unless it is a report already, and print; gives the exit code.

    Errors go to a console of their own, so that what is printed as JSON is JSON or nothing.

    Returns
    -------
    int
        0: counted, nothing contradicts its formula. 1: some layer holds another number than its
        formula or its own attributes say. 2: the target cannot be counted; the reason is printed.
    """
    from monitoring.parameters.count import count

    try:
        found = resolve(target) if isinstance(target, str) else target
        report = found if isinstance(found, Counted) else count(found, target=str(target))
    except ParameterError as error:
        for line in f"error: {error}".split("\n"):
            errors.print(line, style="red", markup=False, highlight=False)
        return BAD_TARGET
    if as_json:
        console.file.write(in_json(report.to_dict()) + "\n")
    else:
        render(report, console)
    return DIFFERS if report.totals.verdict in ("mismatch", "stale_attr") else OK
