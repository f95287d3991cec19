"""Renders the configuration reference as Markdown, from the settings classes themselves.

``make docs`` writes ``docs/configuration.md`` with it and a test compares the two. Nothing at run
time calls this module; it reads classes, never a configuration.
"""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from models.members import catalogue
from models.settings import Duration, Size, format_duration, format_size
from models.task import TaskType
from stream.settings.checks import CHECKS
from stream.settings.schema import Config, FieldSettings, MemberSettings
from stream.settings.shape import models, tag

_TEXTS = {
    Duration.__metadata__[0]: ("duration", format_duration),  # type: ignore[attr-defined]
    Size.__metadata__[0]: ("size", format_size),  # type: ignore[attr-defined]
}
"""Numbers that are written as text: by their validator, what they are called, and the text."""
_SIMPLE = {
    str: "text",
    int: "integer",
    float: "number",
    bool: "boolean",
    Path: "path",
    SecretStr: "text",
    Any: "any value",
}

INTRO = """\
# Configuration

<!-- Written by `make docs` from the settings classes. Do not edit by hand. -->

One TOML file configures one shard. `millrace check FILE` validates it and lists every problem with
its path; `millrace check FILE --json` prints it with all defaults filled in. Unknown keys are
errors.

- **Durations** are text: `"250ms"`, `"30s"`, `"12h"`, `"7d"`, `"2w"`. Units: `ms`, `s`, `m`, `h`,
  `d`, `w`.
- **Sizes** are text: `"500MB"`, `"20GB"`. Units: `B`, `kB`, `MB`, `GB`, `TB`, powers of 1,000.
- **Names** are a letter, then up to 62 letters, digits, `_` or `-`.
- **Environment:** `MILLRACE_A__B=value` is laid over key `a.b`, items of lists by index:
  `MILLRACE_HTTP__PORT=9000`, `MILLRACE_MEMBERS__0__LEARN_EVERY=10`. Values are read as TOML, and as
  text where that fails; a secret is text always. `log.sasl_password`, `registry.password` and
  `registry.token` come from the environment only. Other variables that begin with `MILLRACE_` are
  told and not used.
- **Relative paths** start at the directory in which `millrace` runs.

A key without a default is **required**. Whole files to start from: `examples/fraud.toml`,
`examples/clicks.toml`, `examples/triage.toml`, `examples/arrival.toml`, `examples/shop.toml`,
`examples/fraud-kafka.toml`.
"""

AFTER = """
What a service keeps when any of this changes: [failures](failures.md#changed-configuration).
"""


def markdown() -> str:
    """The whole page. Needs torch, since the torch member's settings stand beside its code.

    Raises :class:`~models.members.catalogue.UnknownMember` without it.
    """
    parts = [INTRO]
    for title, cls in _sections():
        parts.append(_section(f"## {title}", _prose(cls), cls))
        if cls is MemberSettings:
            parts += [_member(*pair) for pair in _members()]
    checks = [f"- {_prose(check)}" for check in CHECKS]
    return "\n".join([*parts, "## Checks across keys", "", *checks, AFTER])


def _sections() -> Iterator[tuple[str, type[BaseModel]]]:
    """Every settings class with its heading, in the order of the keys; each class once."""
    found: dict[type[BaseModel], list[str]] = {}
    _collect(Config, "", False, found)
    for cls, paths in found.items():
        headings = [f"`{p}`" for p in dict.fromkeys(paths)]
        title = " and ".join(headings[:2]) + (" and others" if len(headings) > 2 else "")
        kind = tag(cls)
        title += f" with `type = {json.dumps(kind)}`" if kind else ""
        yield "Top level" if cls is Config else title, cls


def _collect(
    cls: type[BaseModel], path: str, many: bool, found: dict[type[BaseModel], list[str]]
) -> None:
    """Note where in a file ``cls`` and every settings class below it stand."""
    found.setdefault(cls, []).append(f"[[{path}]]" if many else f"[{path}]")
    for key, field in cls.model_fields.items():
        below = f"{path}.{key}".lstrip(".")
        origin = get_origin(field.annotation)
        for child in models(field.annotation):
            _collect(child, below + ".NAME" * (origin is dict), origin is tuple, found)


def _section(heading: str, prose: str, cls: type[BaseModel]) -> str:
    return "\n".join([heading, "", prose, "", *_table(cls), ""])


def _members() -> Iterator[tuple[str, TaskType]]:
    """Each member type, with the first type of target that each of its classes learns."""
    for name, tasks in catalogue.MEMBERS.items():
        seen: set[str] = set()
        for task, target in tasks.items():
            if target not in seen:
                seen.add(target)
                yield name, task


def _member(name: str, task: TaskType) -> str:
    model = catalogue.member_class(name, task)
    prose = _prose(model)
    if model.Params.model_config.get("extra") == "allow":
        prose += " Every other key is a parameter of the estimator."
    of = "" if task == "binary" else f" that learn {task}"
    return _section(f"### Members with `type = {json.dumps(name)}`{of}", prose, model.Params)


def _prose(cls: Any) -> str:
    """A docstring's first paragraph, in Markdown."""
    paragraph = (cls.__doc__ or "").strip().split("\n\n")[0]
    return " ".join(paragraph.split()).replace("``", "`")


def _table(cls: type[BaseModel]) -> list[str]:
    rows = [(key, f) for key, f in cls.model_fields.items() if not (key == "type" and tag(cls))]
    head = ["| key | type | default | meaning |", "|---|---|---|---|"]
    cells = [(f"`{key}`", _type(f), _default(f), _meaning(f)) for key, f in rows]
    return head + ["| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in cells]


def _meaning(field: FieldInfo) -> str:
    text = field.description or ""
    if not text and (below := models(field.annotation)):
        text = _prose(below[0]).rstrip(".") if len(below) == 1 else "see below"
    bounds = ", ".join(_bounds(field.metadata))
    return f"{text} ({bounds})" if text and bounds else text or bounds


def _bounds(metadata: list[Any]) -> Iterator[str]:
    """The field's bounds in words."""
    names = ("ge", "gt", "le", "lt", "min_length", "max_length")
    found = {n: getattr(m, n) for m in metadata for n in names if getattr(m, n, None) is not None}
    if "ge" in found and "le" in found:
        yield f"{_number(found.pop('ge'))}..{_number(found.pop('le'))}"
    for name, words in (
        ("ge", "at least {}"),
        ("gt", "above {}"),
        ("le", "at most {}"),
        ("lt", "below {}"),
    ):
        if name in found:
            yield words.format(_number(found[name]))
    if "max_length" in found:
        yield f"{found.get('min_length', 0)} to {found['max_length']} of them"
    elif "min_length" in found:
        yield f"at least {found['min_length']} of them"


def _number(value: float) -> str:
    if isinstance(value, int) and value > 1 << 30 and value.bit_count() == 1:
        return f"2^{value.bit_length() - 1}"
    return f"{value:,}" if value > 9999 else f"{value:g}"


def _type(field: FieldInfo) -> str:
    return next((_TEXTS[m][0] for m in field.metadata if m in _TEXTS), "") or _named(
        field.annotation
    )


def _named(annotation: Any) -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation in _SIMPLE:
        return _SIMPLE[annotation]
    if origin is Annotated:
        return next((_TEXTS[m][0] for m in args[1:] if m in _TEXTS), "") or _named(args[0])
    if origin is Literal:
        return ", ".join(f"`{json.dumps(a)}`" for a in args)
    if origin in (Union, types.UnionType):
        kinds = dict.fromkeys(_named(a) for a in args if a is not type(None))
        return " or ".join(kinds)
    if origin is tuple:
        return f"list of {_named(args[0])}"
    if origin is dict:
        return f"table of {_named(args[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "text or table" if annotation is FieldSettings else "table"
    raise TypeError(f"reference: no words for {annotation!r}; add them to _SIMPLE")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    value = field.default
    text = next((_TEXTS[m][1] for m in field.metadata if m in _TEXTS), None)
    if text is not None and value is not None:
        return f"`{json.dumps(text(value))}`"
    if value is None or value == () or value == {} or isinstance(value, BaseModel):
        return ""
    if isinstance(value, dict):
        return "`{ " + ", ".join(f"{json.dumps(k)} = {_plain(v)}" for k, v in value.items()) + " }`"
    return f"`{_plain(value)}`"


def _plain(value: Any) -> str:
    """A value as TOML."""
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_plain, value)) + "]"
    if isinstance(value, Path):
        return json.dumps(str(value))
    if isinstance(value, bool | str):
        return json.dumps(value)
    return f"{value:_.12g}" if value > 9999 else f"{value:g}"


if __name__ == "__main__":
    sys.stdout.write(markdown())
