"""Which topics a shard's journal is about, and where each input partition began to be read.

A topic that was deleted and made anew has its old name and other records: only its id tells. The
ids stand in the journal and in every generation, and so does the offset at which a partition joined
the input: one that appeared while nobody looked is not believed to be older than it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from stream.contract.log import Log, LogError, Topic
from stream.settings.schema import Config

Key = tuple[str, int]


class TopicsChanged(LogError):
    """A topic is not the one that the journal is about, and nobody accepted what is lost."""


class Standing:
    """What the journal says up to one step; live, at a replay and in a checkpoint alike.

    Attributes
    ----------
    ids : dict
        Of each topic by its name, also of those that the configuration has renamed since. A topic
        without an id is not among them: its log has none.
    positions : dict
        Where to resume each input partition.
    """

    def __init__(
        self, ids: Mapping[str, str] | None = None, positions: Mapping[Key, int] | None = None
    ) -> None:
        self.ids = dict(ids or {})
        self.positions = dict(positions or {})

    def told(self, ids: Mapping[str, str], joined: Sequence[tuple[str, int, int]]) -> list[str]:
        """A journal record names topics, and partitions that are read from an offset on.

        Of a topic that was made anew, what was read before counts no longer; gives their names.
        """
        anew = self.anew(ids)
        for topic in anew:
            for key in [key for key in self.positions if key[0] == topic]:
                del self.positions[key]
        self.ids |= ids
        self.positions |= {(topic, partition): offset for topic, partition, offset in joined}
        return anew

    def anew(self, ids: Mapping[str, str]) -> list[str]:
        """Topics that have another id than they had."""
        return [name for name, new in ids.items() if self.ids.get(name, new) != new]


class Lost(NamedTuple):
    """Topics that are not there any more: deleted, or others under their names."""

    gone: list[str]
    anew: list[str]

    def __bool__(self) -> bool:
        return bool(self.gone or self.anew)


def ids_of(topics: Mapping[str, Topic]) -> dict[str, str]:
    """The ids, of topics that have one."""
    return {name: topic.id for name, topic in topics.items() if topic.id}


def lost(standing: Standing, topics: Mapping[str, Topic], config: Config) -> Lost:
    """What is lost if these are the topics now, of a log that has made all it needs.

    Scores and dead letters are nobody's state: a new topic for them loses nothing here.
    """
    nobodys = (config.topics.scores, config.topics.dead_letters)
    known = (*config.inputs, *config.outputs, config.journal_topic)
    gone = [name for name in known if name not in topics]
    anew = [name for name in standing.anew(ids_of(topics)) if name not in nobodys]
    return Lost(gone, anew)


def passed(
    log: Log, standing: Standing, config: Config, anew: Sequence[str] = ()
) -> tuple[dict[Key, int], dict[Key, int]]:
    """Input partitions whose oldest record is behind where we stand, with its offset; and of these
    those where records were deleted that nobody had read. Not of topics that were made ``anew``.

    None was where only markers of transactions stood in between, which the log's own account has
    passed; and of versions of a service's members nobody misses one: each is whole, or asked for.
    """
    positions = standing.positions
    behind = {
        key: first
        for key, first in log.earliest().items()
        if positions.get(key, first) < first and key[0] not in anew
    }
    if not behind:
        return {}, {}
    done = log.done(behind)
    gone = {
        key: first
        for key, first in behind.items()
        if done.get(key, 0) < first and key[0] != config.models_topic
    }
    return behind, gone


def unread(gone: Mapping[Key, int], standing: Standing) -> str:
    """A line for each partition of which records were deleted unread."""
    return "".join(
        f"  {topic}/{partition}: offset {standing.positions[topic, partition]} was deleted, the"
        f" oldest retained is {first}\n"
        for (topic, partition), first in sorted(gone.items())
    )


def evidence(config: Config) -> list[str]:
    """Topics that hold the audit trail and its heads."""
    names = config.topics
    return [name for name in (names.audit, names.witness) if name is not None]


def explained(found: Lost, standing: Standing, topics: Mapping[str, Topic], config: Config) -> str:
    """What happened to which topic, what is lost with it, and how to go on."""
    lines = [f"{name}: was deleted" for name in found.gone]
    for name in found.anew:
        what = f"{name}: was deleted and made anew (id {standing.ids[name]}, now {topics[name].id})"
        lines.append(f"{what}; {_loss(name, standing, config)}")
    told = "".join(f"\n  {line}" for line in lines)
    return f"topics are not those that the journal is about:{told}\n{_advice(found, config)}"


def _advice(found: Lost, config: Config) -> str:
    if config.journal_topic in (*found.gone, *found.anew):
        return (
            "The state cannot be told from another's without its journal: put the old topic back"
            " (log.bootstrap, log.path), or begin a new shard with a name and a state_dir of its"
            " own"
        )
    if not found.anew and not {*found.gone} & {*config.inputs, *evidence(config)}:
        return "Start again: what was deleted is made anew, empty"
    return (
        "Put the old topics back (log.bootstrap), or start with --accept-changes: it makes what was"
        " deleted, reads topics made anew from their beginning, and says so in the journal"
    )


def _loss(name: str, standing: Standing, config: Config) -> str:
    if name == config.journal_topic:
        return "the journal of this state is gone with it"
    if name == config.topics.audit:
        return "the audit trail up to now is gone with it, and cannot be verified any more"
    if name == config.topics.witness:
        return "what it witnessed of the audit trail is gone with it"
    positions = sorted(standing.positions.copy().items())
    read = [f"{at} of partition {p}" for (topic, p), at in positions if topic == name]
    if not read:
        return "nothing of it had been read"
    return f"it was read up to offset {', '.join(read)}: what followed there is lost"
