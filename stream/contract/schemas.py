"""Schemas of a registry, by which records are written: what the journal, the state and a step hold.

Fetched beside the step, adopted by a journal record of their own: a replay needs no registry.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from models.base import MillraceError


class Schema(msgspec.Struct, frozen=True):
    """One schema, with all that it refers to.

    ``type`` is the registry's word for it: ``AVRO``, ``PROTOBUF`` or ``JSON``. ``text`` is JSON, of
    a Protobuf schema a ``FileDescriptorProto`` in base64. ``references`` are names, as the text
    writes them, and texts; each after those that it refers to itself.
    """

    id: int
    type: str
    text: str
    references: tuple[tuple[str, str], ...] = ()


class RegistryUnavailable(MillraceError):
    """The registry cannot be asked now: keep all state, back off, ask again."""

    retriable = True


class SchemaRefused(MillraceError):
    """The registry does not have the schema, or will not take it; the message says what to do."""


class Registry(Protocol):
    """A schema registry as the service sees it; each call comes back within its deadline."""

    def schema(self, number: int) -> Schema | None:
        """The schema of that number, ``None`` where there is none that can be used.

        Raises :class:`RegistryUnavailable` for every other answer.
        """

    def register(self, subject: str, kind: str, text: str) -> int:
        """The number of a schema of type ``kind`` under a subject, which it is put under if it may.

        Raises :class:`SchemaRefused`, or :class:`RegistryUnavailable` for every other answer.
        """

    def close(self) -> None:
        """Release everything."""


class NoRegistry:
    """A registry without schemas, for topics that need none."""

    def schema(self, number: int) -> Schema | None:
        """See :meth:`Registry.schema`."""
        return None

    def register(self, subject: str, kind: str, text: str) -> int:
        """See :meth:`Registry.register`; there is nothing to register where no format needs it."""
        return 0

    def close(self) -> None:
        """See :meth:`Registry.close`."""
