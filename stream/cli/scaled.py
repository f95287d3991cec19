"""What `millrace demo --scaled` prints."""

from __future__ import annotations

from pathlib import Path

from stream.cli.terminal import err, out, print_json, print_quality, reported


def tell_scaled(
    bootstrap: str,
    seconds: float,
    rate: float,
    seed: int,
    port: int,
    directory: Path | None,
    as_json: bool,
) -> None:
    """Run the demo of many processes and print its summary."""
    with err.status("Starting"):
        from stream.demo.scaled import run_scaled

    with reported():
        shown = None if as_json else out
        summary = run_scaled(bootstrap, seconds, rate, seed, port, directory, shown)
    if as_json:
        print_json(summary)
        return
    print_quality(out, summary)
    out.print(
        f"{summary['scores']:,} scored by {summary['scorers']} scorers; {summary['learned']:,} "
        "learned by one learner, of labels and of events past their horizon"
    )
    if lacking := summary["risk_lacking"]:
        out.print(
            f"{lacking:,} scored while what other scorers told of terminals was older than the"
            " delay of risk, two days: some days pass in a second here"
        )
    held = "the same members" if summary["same_members"] else "OTHER MEMBERS"
    out.print(
        f"{summary['versions']} versions, {held} everywhere "
        f"({', '.join(sorted(set(summary['digests'].values())))}), "
        f"{summary['events_per_s']:,.0f} events/s, {summary['dead_letters']} dead letters"
    )
