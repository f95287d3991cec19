"""Records of a shard that ranks: what users did, what is known of items, and requests.

The shapes and words are Metarank's [1]_, so that its producers work unchanged: ``item``, ``user``,
``ranking`` and ``interaction``. Beside them stand the requests ``rank`` and ``recommend``, which
HTTP has as paths, and ``delete``. Fields that are not named here are ignored.

References
----------
.. [1] https://docs.metarank.ai/reference/event-schema
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias, Union

import msgspec

from models.reco.settings import Seen
from stream.contract.letters import DeadLetter
from stream.contract.records import Record
from stream.decode.codec import FINITE, ID_BYTES, NOTHING, Codec, Keyed
from stream.decode.coerce import BadValue
from stream.decode.row_fields import RowFields
from stream.decode.times import BadTime, event_times
from stream.settings.schema import Config

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=ID_BYTES)]
MOST_ITEMS = 10_000
"""Items in one ranking or request, at most."""
MOST_SHOWN = 1000
"""Items that a request may ask for, at most."""

Value: TypeAlias = bool | float | str | list[bool | float | str] | None


class Field(msgspec.Struct, frozen=True, gc=False):
    """One value of an item, a user or a request."""

    name: Text
    value: Value = None


Fields = list[Field] | dict[str, Value]
"""As Metarank writes them, or as an object."""


class Shown(msgspec.Struct, frozen=True, gc=False):
    """An item in a list; ``propensity``: the probability with which it came to stand there."""

    id: Text
    propensity: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None


class Item(msgspec.Struct, frozen=True, tag_field="event", tag="item"):
    """What is known of an item."""

    item: Text
    timestamp: msgspec.Raw
    id: Text | None = None
    fields: Fields = []


class User(msgspec.Struct, frozen=True, tag_field="event", tag="user"):
    """What is known of a user."""

    user: Text
    timestamp: msgspec.Raw
    id: Text | None = None
    fields: Fields = []


class Among(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which items of the catalogue a list was drawn from: as the request for it said."""

    items: Annotated[list[Shown], msgspec.Meta(max_length=MOST_ITEMS)] = []
    exclude: Annotated[list[Text], msgspec.Meta(max_length=MOST_ITEMS)] = []
    seen: Seen | None = None
    categories: Annotated[list[Text], msgspec.Meta(max_length=100)] = []
    offset: Annotated[int, msgspec.Meta(ge=0, le=MOST_ITEMS)] = 0


class Ranking(msgspec.Struct, frozen=True, tag_field="event", tag="ranking"):
    """A list that a user was shown; ``id`` is what interactions with it name.

    Without ``among`` the list holds all that it was drawn from.
    """

    id: Text
    timestamp: msgspec.Raw
    items: Annotated[list[Shown], msgspec.Meta(min_length=1, max_length=MOST_ITEMS)]
    user: Text | None = None
    session: Text | None = None
    among: Among | None = None
    fields: Fields = []


class Interaction(msgspec.Struct, frozen=True, tag_field="event", tag="interaction"):
    """What a user did with an item; ``value`` is a rating."""

    item: Text
    timestamp: msgspec.Raw
    id: Text | None = None
    type: Text = "interaction"
    user: Text | None = None
    session: Text | None = None
    ranking: Text | None = None
    value: FINITE | None = None
    fields: Fields = []


class Delete(msgspec.Struct, frozen=True, tag_field="event", tag="delete"):
    """Forget a user or an item."""

    timestamp: msgspec.Raw
    id: Text | None = None
    user: Text | None = None
    item: Text | None = None


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What both requests have; the user, else the session, is whom the list is for."""

    id: Text
    timestamp: msgspec.Raw
    user: Text | None = None
    session: Text | None = None
    exclude: Annotated[list[Text], msgspec.Meta(max_length=MOST_ITEMS)] = []
    seen: Seen | None = None
    categories: Annotated[list[Text], msgspec.Meta(max_length=100)] = []
    explain: bool = False
    fields: Fields = []


class Rank(Request, frozen=True, kw_only=True, tag_field="event", tag="rank"):
    """Put these items in order for a user."""

    items: Annotated[list[Shown], msgspec.Meta(min_length=1, max_length=MOST_ITEMS)]


class Recommend(Request, frozen=True, kw_only=True, tag_field="event", tag="recommend"):
    """Find items for a user; ``items`` are those that he looks at, which are not among them."""

    items: Annotated[list[Shown], msgspec.Meta(max_length=MOST_ITEMS)] = []
    count: Annotated[int, msgspec.Meta(ge=1, le=MOST_SHOWN)] = 10
    offset: Annotated[int, msgspec.Meta(ge=0, le=MOST_ITEMS)] = 0


KINDS = (Item, User, Ranking, Interaction, Delete, Rank, Recommend)


class Taken(msgspec.Struct, frozen=True):
    """Decoded records: ``what[i]`` is in ``records[i]`` and happened at ``time_ms[i]``."""

    records: list[Record]
    what: list[Any]
    time_ms: list[int]


class FeedbackCodec(Codec):
    """The decoder of a shard that ranks."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._decoders = {config.topics.events: self.feedback}
        self._time = event_times(config)
        self._feedback = msgspec.json.Decoder(Union[KINDS])  # noqa: UP007 - made of the table
        self._fields = RowFields(config.row_fields)

    def feedback(self, records: Sequence[Record]) -> tuple[Taken, list[DeadLetter]]:
        """The good records and the bad ones, each in input order."""
        unpack, read = self._unpack_event, self._read_feedback
        good, parts, bad = self._each(
            records, unpack, read, lambda _: NOTHING, lambda rows, _: rows
        )
        rows = [row for part in parts for row in part]
        return Taken(good, [what for what, _ in rows], [ms for _, ms in rows]), bad

    def _read_feedback(self, payload: bytes) -> tuple[Any, int]:
        what = self._feedback.decode(payload)
        if isinstance(what, Delete) and (what.user is None) == (what.item is None):
            raise msgspec.ValidationError("Expected one of `user` and `item` - at `$`")
        if self._fields.kinds and not isinstance(what, Delete | Interaction):
            try:
                self._fields.read(fields_of(what.fields))
            except BadValue as error:
                raise msgspec.ValidationError(str(error)) from error
        try:
            return what, self._time.read(what.timestamp)
        except BadTime as error:
            raise msgspec.ValidationError(f"{error} - at `$.timestamp`") from error

    def event_keys(self, records: Sequence[Record]) -> tuple[list[Keyed], list[DeadLetter]]:
        """Keys of the good records and the bad ones: all of one user stays in order."""
        taken, bad = self.feedback(records)
        times = zip(taken.what, taken.time_ms, strict=True)
        return [Keyed(what.id or "", whose(what), ms) for what, ms in times], bad


def codec_of(config: Config) -> Codec:
    """The decoder of a shard."""
    return Codec(config) if config.reco is None else FeedbackCodec(config)


def whose(what: Any) -> str:
    """The text by which a record's partition is chosen: its user, else its session, else its id."""
    for name in ("user", "session", "item", "id"):
        if isinstance(found := getattr(what, name, None), str):
            return found
    return ""


def question(what: Ranking) -> Rank | Recommend:
    """The request that a list could be the answer to."""
    told: dict[str, Any] = {name: getattr(what, name) for name in ("id", "timestamp", "user")}
    told["session"] = what.session
    if what.among is None:
        return Rank(items=what.items, **told)
    return Recommend(**told, **msgspec.structs.asdict(what.among))


def fields_of(fields: Fields) -> dict[str, Value]:
    """Fields by name, however they are written."""
    return fields if isinstance(fields, dict) else {field.name: field.value for field in fields}
