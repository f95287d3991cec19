"""Every file of every generation cut, flipped or removed: a bad state is never believed.

Works on a state directory with several generations and several pending segments (made small for
it), with :func:`stream.state.recovery.recover` in this process; a few cases go through `millrace
run`.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from models.base import MillraceError
from stream.contract.log import Log, OutOfRetention
from stream.logs.sqlite.log import SqliteLog
from stream.run.assemble import build_engine, wall_clock_ms
from stream.settings.load import load
from stream.state.artefacts import FOLDER
from stream.state.follow import Follower
from stream.state.generations import CheckpointError, StateDirectory, list_generations
from stream.state.recovery import recover
from stream.state.topics import TopicsChanged
from stream.step.pending import store
from stream.step.pending.segments import Damaged
from tests.faults.check import journal_of, reference
from tests.faults.crash import Feeder, Progress, append, newest
from tests.faults.shard import Shard
from tests.faults.traffic import Traffic
from tests.faults.worker import Worker
from tests.stream.logs.log_file import left
from tests.support.factory import RARELY
from tests.support.runner import running
from tests.support.waiting import wait_until

SEGMENT_ROWS = 128
"""Rows of a pending segment here, so that a few hundred events fill several."""
KEEP = 4
CHECKPOINTS = RARELY | {"keep": KEEP}


class Case(NamedTuple):
    """One way to spoil one file. ``at``: the length left, or the bit flipped."""

    file: Path
    how: str
    at: int

    def spoil(self, path: Path) -> None:
        """Do it to the copy at ``path``."""
        if self.how == "removed":
            path.unlink()
        elif self.how == "truncated":
            os.truncate(path, self.at)
        else:
            raw = bytearray(path.read_bytes())
            raw[self.at // 8] ^= 1 << self.at % 8
            path.write_bytes(raw)


class Tally:
    """What became of the cases."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.problems: list[str] = []

    def note(self, what: str, problem: str = "") -> None:
        """Count a case; a problem makes the run fail."""
        self.counts[what] += 1
        if problem and len(self.problems) < 20:
            self.problems.append(problem)


@contextmanager
def small_segments() -> Iterator[None]:
    """Segments of :data:`SEGMENT_ROWS` rows in this process."""
    with patch.object(store, "SEGMENT_ROWS", SEGMENT_ROWS):
        yield


def make(shard: Shard, seed: int, events: int = 1_000) -> Traffic:
    """Run the service in this process; ``KEEP`` generations, each after its part of the events."""
    traffic = Traffic(seed)
    shard.log.create_topics()
    with running(shard.config):
        for _ in range(KEEP):
            Feeder(shard, traffic, events // KEEP).rest()
            save(shard, traffic)
    return traffic


def save(shard: Shard, traffic: Traffic) -> None:
    """Have the running service write a generation."""
    before = newest(shard)
    append(shard, traffic.checkpoint())
    wait_until(lambda: newest(shard) > before, "a generation")


def all_cases(state: Path, offsets: int, rng: random.Random) -> list[Case]:
    """Each file of each generation (a linked one once): removed, cut and flipped at ``offsets``."""
    cases: list[Case] = []
    seen: set[int] = set()
    for generation in list_generations(state):
        for file in sorted(generation.iterdir()):
            status = file.stat()
            if status.st_ino in seen:
                continue
            seen.add(status.st_ino)
            cases.append(Case(file, "removed", 0))
            size = status.st_size
            cases += [Case(file, "truncated", rng.randrange(size)) for _ in range(offsets)]
            cases += [Case(file, "flipped", rng.randrange(8 * size)) for _ in range(offsets)]
    return cases


def copy_spoiled(state: Path, target: Path, case: Case | None) -> None:
    """A copy of the generations by links, but the spoiled file by content, its links kept.

    The artefacts, which a replay may ask for, are there as they are.
    """
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(state / FOLDER, target / FOLDER, copy_function=os.link)
    spoiled = case.file.stat().st_ino if case else -1
    copy: Path | None = None
    for generation in list_generations(state):
        made = target / "generations" / generation.name
        made.mkdir(parents=True)
        for file in generation.iterdir():
            same = file.stat().st_ino == spoiled
            if same and case and case.how == "removed" and file != case.file:
                same = False  # removing one name leaves the other links
            if not same:
                os.link(file, made / file.name)
            elif copy is None:
                copy = made / file.name
                shutil.copyfile(file, copy)
            else:
                os.link(copy, made / file.name)
    if case and copy:
        case.spoil(copy)


def judge(case: str, shard: Shard, log: Log, target: Path, wanted: str, tally: Tally) -> None:
    """Recover from ``target``: the right state, or a refusal that says why."""
    directory = StateDirectory(target).open()
    newest = max(int(p.name) for p in list_generations(target))
    try:
        recovered, digest = _recovered(shard, log, directory)
        if digest != wanted:
            tally.note("bad_loaded", f"{case}: loaded state {digest}, expected {wanted}")
        else:
            tally.note("recovered")
            tally.note("from_newest" if recovered.from_seq == newest else "from_older")
            if recovered.from_seq == 0:
                tally.note("from_step_1")
    except (CheckpointError, OutOfRetention, TopicsChanged):
        tally.note("refused")
    except Exception as error:  # noqa: BLE001 - every other end is a finding
        clear = "clear" if isinstance(error, MillraceError) else "unclear"
        tally.note("unclear", f"{case}: {clear} but unexpected {type(error).__name__}: {error}")
    finally:
        directory.close()


def _recovered(shard: Shard, log: Log, directory: StateDirectory) -> tuple[Follower, str]:
    """What a start brings back, and its digest, for which all rows are read."""
    while True:
        recovered = recover(
            log,
            directory,
            shard.config,
            lambda config: build_engine(config, directory.pending),
            lambda: None,
        )
        try:
            return recovered, recovered.engine.state_digest()
        except Damaged as error:  # as a service does of which a label asks for the row
            directory.distrust(error)
        finally:
            recovered.engine.close()


def checkpoints(directory: Path, seed: int, offsets: int, progress: Progress) -> dict[str, Any]:
    """Every file, every way, in this process; then a few through the real command."""
    tally = Tally()
    sizes = spoil_all(directory, seed, offsets, tally, progress)
    _by_command(directory / "real", seed, tally, progress)
    counts = tally.counts
    ends = ("recovered", "refused", "unclear", "bad_loaded")
    more = ("from_newest", "from_older", "from_step_1", "by_command")
    return (
        {"seed": seed, "cases": sum(counts[name] for name in ends)}
        | {name: counts[name] for name in ends + more}
        | sizes
        | {"problems": tally.problems}
    )


def spoil_all(
    directory: Path, seed: int, offsets: int, tally: Tally, progress: Progress
) -> dict[str, int]:
    """Every file, every way; once with the whole journal, some with one that starts later.

    1. Generations with several segments, and the fault-free engine's digest.
    2. Each case with the whole journal: always recovered.
    3. A tenth of them with a journal that starts at the oldest generation: recovered or refused.
    4. A journal that ends before the newest generation, and a generation of another run.
    """
    rng = random.Random(f"checkpoints {seed}")
    with small_segments():
        shard = Shard(directory / "small", checkpoints=CHECKPOINTS)
        make(shard, seed)
        engine, _ = reference(shard, journal_of(shard))
        wanted = engine.state_digest()
        state, target = shard.config.state_dir, directory / "case"
        copy_spoiled(state, target, None)
        judge("nothing spoiled", shard, shard.log, target, wanted, tally)
        if not tally.counts["from_newest"]:
            tally.note("unclear", "nothing spoiled: the newest generation was not used")
        cases = all_cases(state, offsets, rng)
        for i, case in enumerate(cases):
            copy_spoiled(state, target, case)
            judge(_name(case), shard, shard.log, target, wanted, tally)
            progress("whole journal", i + 1, len(cases))
        if tally.counts["refused"]:
            tally.note("unclear", "refused although the whole journal was there")
        shorter = _shortened(shard, directory / "short.db")
        some = rng.sample(cases, max(1, len(cases) // 10))
        for i, case in enumerate(some):
            copy_spoiled(state, target, case)
            judge(f"short journal, {_name(case)}", shard, shorter, target, wanted, tally)
            progress("short journal", i + 1, len(some))
        shorter.close()
        _ahead(shard, directory, tally)
        _foreign(shard, directory, seed, wanted, tally)
        shard.renew_log()
    segments = {c.file.name for c in cases if c.file.name.startswith("pending-")}
    return {"generations": len(list_generations(state)), "segments": len(segments)}


def _name(case: Case) -> str:
    return f"{case.file.parent.name}/{case.file.name} {case.how} at {case.at}"


def _other_log(shard: Shard, path: Path, clock_ms: Callable[[], int]) -> SqliteLog:
    """A log over a copy of the shard's file."""
    with sqlite3.connect(shard.config.log.path) as source:  # type: ignore[union-attr]
        path.unlink(missing_ok=True)
        with sqlite3.connect(path) as target:
            source.backup(target)
        target.close()
    source.close()
    config = load(shard.path, {"MILLRACE_LOG__PATH": str(path)})
    return SqliteLog(config, clock_ms)


def _shortened(shard: Shard, path: Path) -> Log:
    """The shard's log after its retention let go of all before the oldest generation."""
    oldest = int(list_generations(shard.config.state_dir)[-1].name)
    log = _other_log(shard, path, lambda: wall_clock_ms() + 10**12)
    log.open()
    log.truncate({}, oldest - 1)
    return log


def _ahead(shard: Shard, directory: Path, tally: Tally) -> None:
    """A journal that lost its end: generations beyond it are refused, an older one is used."""
    _, second, *_ = (int(p.name) for p in list_generations(shard.config.state_dir))
    log = _other_log(shard, directory / "ahead.db", wall_clock_ms)
    log.close()
    topic = shard.topic("journal")
    left(directory / "ahead.db", topic, range(second + 1))
    with closing(sqlite3.connect(directory / "ahead.db")) as db, db:
        db.execute("UPDATE partitions SET next_offset = ? WHERE topic = ?", (second + 1, topic))
    log = SqliteLog(
        load(shard.path, {"MILLRACE_LOG__PATH": str(directory / "ahead.db")}), wall_clock_ms
    )
    engine, _ = reference(shard, list(log.journal(0)))
    copy_spoiled(shard.config.state_dir, directory / "case", None)
    judge("ahead of the journal", shard, log, directory / "case", engine.state_digest(), tally)
    log.close()


def _foreign(shard: Shard, directory: Path, seed: int, wanted: str, tally: Tally) -> None:
    """Generations of another run, newer than ours: not of this journal, never loaded."""
    other = Shard(directory / "other", name=shard.config.name, checkpoints=CHECKPOINTS)
    make(other, seed + 1)
    other.renew_log()
    target = directory / "case"
    copy_spoiled(shard.config.state_dir, target, None)
    for generation in list_generations(other.config.state_dir):
        place = target / "generations" / generation.name
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(generation, place)
    judge("generations of another run", shard, shard.log, target, wanted, tally)


def _by_command(directory: Path, seed: int, tally: Tally, progress: Progress) -> None:
    """Spoil the newest generation between two lives of the real service, one file at a time."""
    rng = random.Random(f"by command {seed}")
    shard = Shard(directory)
    traffic = Traffic(seed + 2)
    shard.log.create_topics()
    feeder = Feeder(shard, traffic, 10_000)
    names = ("manifest.json", "arrays.safetensors.zst", "state.msgpack")
    for i, name in enumerate(names):
        with Worker(shard.path) as worker:
            worker.wait_for("restored")
            for _ in range(60):
                feeder.append()
            save(shard, traffic)
            worker.kill()
        newest = list_generations(shard.config.state_dir)[0]
        size = (newest / name).stat().st_size
        Case(newest / name, "flipped", rng.randrange(8 * size)).spoil(newest / name)
        with Worker(shard.path) as worker:
            line = worker.wait_for("restored")
            seq = line["seq"]
            status = worker.stop()
        engine, _ = reference(shard, journal_of(shard))
        quarantined = any((shard.config.state_dir / "quarantine").glob(f"{newest.name}-*"))
        if status != 0 or not quarantined or line["from_checkpoint"] >= int(newest.name):
            tally.note("unclear", f"command: {name} of {newest.name} flipped: {line}")
        target = directory / "case"
        copy_spoiled(shard.config.state_dir, target, None)
        wanted = engine.state_digest()
        judge(f"command: {name}, step {seq}", shard, shard.log, target, wanted, tally)
        tally.note("by_command")
        progress("by command", i + 1, len(names))
    shard.renew_log()
