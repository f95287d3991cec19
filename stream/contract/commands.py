"""What an operator can ask for: commands are records of the control topic, journaled like events.

``stream/decode/codec.py`` decodes them, the engine applies them and answers each with an audit
record; the CLI and the HTTP API only append them.
"""

from __future__ import annotations

from typing import Annotated

import msgspec


class Freeze(msgspec.Struct, frozen=True, tag_field="command", tag="freeze"):
    """The member keeps scoring and stops learning."""

    member: str
    actor: str = ""


class Release(msgspec.Struct, frozen=True, tag_field="command", tag="release"):
    """The member learns again and rejoins the ensemble."""

    member: str
    actor: str = ""


class SetThreshold(msgspec.Struct, frozen=True, tag_field="command", tag="set_threshold"):
    """Scores at or above ``threshold`` are alerts from here on."""

    threshold: Annotated[float, msgspec.Meta(gt=0, lt=1)]
    actor: str = ""


class Checkpoint(msgspec.Struct, frozen=True, tag_field="command", tag="checkpoint"):
    """Save the state after this step."""

    actor: str = ""


Command = Freeze | Release | SetThreshold | Checkpoint
