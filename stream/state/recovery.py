"""Back to where the journal ends: load the newest good checkpoint, follow the journal from there.

Nothing is committed here: outputs of replayed steps are thrown away.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial

import structlog

from models.base import MillraceError, State
from models.ensemble.group import place_of
from models.members.catalogue import digests_state, names_code
from monitoring.audit.contents import MODELS, member_key, saved_of
from stream.contract.failpoint import failpoint
from stream.contract.log import Log, OutOfRetention
from stream.contract.records import JournalRecord
from stream.logs.ahead import one_ahead
from stream.settings.schema import Config
from stream.settings.upgrade import UnreadableConfig, digest, settings
from stream.state.backfill import entered
from stream.state.follow import Build, Follower, Means, body_of, built, steps
from stream.state.generations import CheckpointError, Loaded, Manifest, StateDirectory, revive
from stream.state.topics import Lost, Standing, TopicsChanged, explained, lost
from stream.step.engine import Engine
from stream.step.pending.segments import Damaged

logger = structlog.get_logger()


OUT_OF_REACH = (OutOfRetention, CheckpointError, TopicsChanged)
"""What is raised where journal, input and checkpoints do not lead to a step any more."""


class MovedAway(MillraceError):
    """The shard's partitions are other scorers' now."""


class ForeignState(MillraceError):
    """The state directory belongs to another shard."""


class Unvouched(MillraceError):
    """A checkpoint from before configurations were on record holds another one than is given."""


def recover(
    log: Log,
    directory: StateDirectory,
    config: Config,
    build: Build,
    beat: Callable[[], None],
    until_seq: int | None = None,
    accept: bool = False,
) -> Follower:
    """The engine as of the journal's end (or of step ``until_seq``): :func:`load`, then follow.

    ``accept``: steps whose records are gone are left out (:func:`~stream.state.follow.steps`).
    Where a step asks for a row that changed on the disk, an older generation is taken.

    Raises :class:`~stream.state.follow.Diverged`, :class:`~stream.contract.log.OutOfRetention` when
    the journal does not reach back far enough, :class:`CheckpointError` when generations exist but
    none can be used, or the journal holds what this version does not know.
    """
    failpoint("restore.start")
    started = time.monotonic()
    follower = load(log, directory, config, build, beat, until_seq)
    failpoint("restore.loaded")
    ids = dict(follower.standing.ids)
    journaled = steps(log, follower.from_seq, until_seq, lambda: follower.engine.codec, ids, accept)
    try:
        for record, slices in one_ahead(journaled, lambda job: follower.engine.spare(job)):
            if slices is None:
                follower.skip(record)
            else:
                follower.apply(record, slices)
            beat()
    except Damaged as error:
        follower.engine.close()
        directory.distrust(error)
        return recover(log, directory, config, build, beat, until_seq, accept)
    if until_seq is not None and follower.engine.seq != until_seq:
        raise CheckpointError(
            f"replay: expected the journal to reach step {until_seq}, it ends at "
            f"{follower.engine.seq}"
        )
    if follower.gone and until_seq is None:
        raise MovedAway(
            f"{config.name}: what it held moved to other scorers, of which there are"
            f" {follower.gone} since: run those with shard.count = {follower.gone}"
        )
    follower.seconds = time.monotonic() - started
    failpoint("restore.done")
    return follower


def load(
    log: Log,
    directory: StateDirectory,
    config: Config,
    build: Build,
    beat: Callable[[], None],
    until_seq: int | None = None,
) -> Follower:
    """The newest generation that verifies and that the journal knows, ready to follow the journal.

    Without one an empty engine, under the configuration that the first step ran under. Raises as
    :func:`recover`.
    """
    on_divergence = config.checkpoints.on_divergence
    past = partial(entered, log, directory, build, beat)
    means = Means(build, past, directory.artefacts, directory.entered)
    head = log.journal_head()
    for loaded in directory.usable(lambda m: _refusal(m, log, config), until_seq):
        if head is not None and head.seq > loaded.manifest.seq + 1:
            raise OutOfRetention(
                f"journal: expected steps from {loaded.manifest.seq + 1}, the oldest retained is "
                f"{head.seq}; no checkpoint reaches it"
            )
        try:
            contents = _journaled(loaded.manifest, log).contents
            return _restored(loaded, contents, means, on_divergence)
        except CheckpointError as error:
            directory.set_aside(loaded.path, str(error))
    if head is not None and head.seq > 1:
        raise CheckpointError(
            f"{directory.generations}: no usable checkpoint, and the journal starts at step "
            f"{head.seq}, not 1; put a good generation back from {directory.quarantine} or a backup"
        )
    first = body_of(head).config if head is not None else None
    if first is None:
        return Follower(build(config), Standing(), means, on_divergence)
    engine = built(build, first, f"{config.journal_topic}: step 1")
    return Follower(engine, Standing(), means, on_divergence)


def _refusal(manifest: Manifest, log: Log, config: Config) -> str | None:
    """Why a generation is not of this journal, or ``None``. Nothing that it names is loaded."""
    if manifest.shard != config.name:
        raise ForeignState(
            f"{config.state_dir}: expected the state of shard {config.name!r}, got that of "
            f"{manifest.shard!r}; give each shard a state_dir of its own"
        )
    where = f"{config.state_dir}: generation {manifest.seq}"
    record = next(iter(log.journal(manifest.seq - 1)), None)
    on_record, reason = "", None
    if record is None or (record.seq, record.digest) != (manifest.seq, manifest.digest):
        reason = "the journal does not hold this step with this digest"
    elif (on_record := record.config) not in ("", digest(manifest.config)):
        reason = "its configuration is not the one that the journal vouches for"
    try:
        theirs = settings(manifest.config, where)
    except UnreadableConfig:
        if reason is None:
            raise
        return reason
    if theirs.journal_topic != config.journal_topic:
        raise ForeignState(
            f"topics.journal: expected {theirs.journal_topic!r}, in which the state in "
            f"{config.state_dir} is journaled, got {config.journal_topic!r}; put it back, or begin "
            "a new shard with a name and a state_dir of its own"
        )
    _refuse_other_journal(manifest, log, config)
    if reason is None and not on_record and (strange := _strange_code(theirs, config)):
        raise Unvouched(
            f"{where}: the journal was written before it vouched for configurations, and the given "
            f"one names other code for {', '.join(strange)}: start once with the file that the "
            "shard ran under, then change it"
        )
    return reason


def _strange_code(theirs: Config, given: Config) -> list[str]:
    """Members that would run code which the given configuration does not name for them.

    Other settings may differ: defaults have changed since, and none of them runs anything.
    """
    known = {member.name: (member.type, member.params) for member in given.members}
    return [
        member.name
        for member in theirs.members
        if names_code(member.type, member.params)
        and known.get(member.name) != (member.type, member.params)
    ]


def _refuse_other_journal(manifest: Manifest, log: Log, config: Config) -> None:
    """Raise where the journal beside a generation is not the one that it was made with."""
    name, topics = config.journal_topic, log.topics()
    found = lost(manifest.standing, topics, config)
    if name in found.anew:
        raise TopicsChanged(explained(Lost([], [name]), manifest.standing, topics, config))
    if log.journal_head() is None:
        raise ForeignState(
            f"{name}: expected the journal of the state in {config.state_dir}, which stands at step"
            f" {manifest.seq}, got an empty one; put the old topic back (log.bootstrap, log.path),"
            " or begin a new shard with a name and a state_dir of its own"
        )


def _journaled(manifest: Manifest, log: Log) -> JournalRecord:
    """The journal's record of a generation's step, which :func:`_refusal` has seen."""
    return next(iter(log.journal(manifest.seq - 1)))


def _restored(
    loaded: Loaded, contents: Mapping[str, str], means: Means, on_divergence: str
) -> Follower:
    manifest = loaded.manifest
    engine = built(means.build, manifest.config, str(loaded.path))
    if contents:  # a journal from before vouches for no state
        _check(loaded, engine, contents)
    revive(engine, loaded)
    return Follower(engine, manifest.standing, means, on_divergence, manifest)


def _unreadable(engine: Engine, state: State) -> set[str]:
    """Members, and models beside them, whose digest is not that of what is saved of them.

    One that another definition made is of that one's type; what it names is not loaded yet.
    """
    found = set()
    specs_of = {"challengers": "challenger_specs"}
    for kind, prefix in MODELS.items():
        specs = state["ensemble"].get(specs_of.get(kind, "specs"), {})
        for name in state["ensemble"].get(kind, {}):
            member = engine.ensemble.members.get(place_of(name))
            if member is None:
                continue  # of no place there is: nothing reads it
            made = specs.get(name)
            if made is None:
                known = member.digests_state()
            else:
                known = digests_state(made["type"], engine.config.target.type)
            if not known:
                found.add(prefix + name)
    return found


def _check(loaded: Loaded, engine: Engine, contents: Mapping[str, str]) -> None:
    """Raise :class:`CheckpointError` for the first part that the journal does not vouch for.

    Kernels trust the numbers in a state as indices: what was crafted must not reach them. A River
    estimator's digest is not that of its bytes; their reader is closed instead.
    """
    try:
        unreadable = _unreadable(engine, loaded.state)
        saved = saved_of(loaded.state, loaded.rows, unreadable)
    except Exception as error:  # a crafted state may raise anything
        engine.close()
        raise CheckpointError(f"{loaded.path}: {error or type(error).__name__}") from error
    unread = set(map(member_key, unreadable))
    for name in sorted((contents.keys() | saved.keys()) - unread):
        if contents.get(name) != saved.get(name):
            engine.close()
            raise CheckpointError(
                f"{loaded.path}: {name}: expected digest {contents.get(name)}, which the journal "
                f"vouches for, got {saved.get(name)}"
            )
