"""Reading and validating a configuration: one TOML file, ``MILLRACE_...`` variables laid over it.

``load`` returns a :class:`~stream.settings.schema.Config` or raises :class:`ConfigError` with every
problem it found, each as ``path: expected ..., got ...``. Nothing here opens a log or builds a
model.
"""

from __future__ import annotations

import difflib
import ipaddress
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError

from models.base import MillraceError
from models.ensemble.combine import COMBINERS
from models.members.catalogue import UnknownMember, member_class
from models.settings import VALUE_STATS, Feature, feature_fields
from stream.settings.schema import (
    Config,
    MemberSettings,
    TopicsSettings,
)

ENV_PREFIX = "MILLRACE_"


class ConfigError(MillraceError):
    """The configuration is not usable. ``problems`` holds one line for each mistake."""

    def __init__(self, source: str, problems: list[str]) -> None:
        self.source = source
        self.problems = problems
        lines = "\n".join(f"  {p}" for p in problems)
        super().__init__(f"{source}: {len(problems)} problem(s)\n{lines}")


def load(path: Path, environ: Mapping[str, str]) -> Config:
    """Read, overlay with ``MILLRACE_...`` and validate; raises :class:`ConfigError`."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(str(path), [f"cannot be read: {error.strerror}"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), [f"is not TOML: {error}"]) from error
    secrets = [
        "log.sasl_password: comes from the environment only; set MILLRACE_LOG__SASL_PASSWORD"
        for log in [raw.get("log")]
        if isinstance(log, dict) and "sasl_password" in log
    ]
    return parse(overlay(raw, environ), str(path), secrets)


def parse(raw: dict[str, Any], source: str, problems: list[str] | None = None) -> Config:
    """Validate a raw tree; every problem at once, each as ``path: expected ..., got ...``."""
    found = list(problems or [])
    config: Config | None = None
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        found += [_problem(e, raw) for e in error.errors()]
    found += list(_cross_checks(raw))
    if found or config is None:
        raise ConfigError(source, found)
    return config


def overlay(raw: dict[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """``raw`` with ``MILLRACE_A__B=value`` laid over ``a.b``; values are TOML, else text.

    List items go by index: ``MILLRACE_MEMBERS__0__TYPE``.
    """
    tree: dict[str, Any] = _copy(raw)
    for key in sorted(environ):
        if not key.startswith(ENV_PREFIX) or "FAILPOINT" in key:
            continue
        *parents, last = key[len(ENV_PREFIX) :].lower().split("__")
        node: Any = tree
        for parent in parents:
            node = _descend(node, parent)
        if isinstance(node, list) and last.isdigit() and int(last) < len(node):
            node[int(last)] = _scalar(environ[key])
        elif isinstance(node, dict):
            node[last] = _scalar(environ[key])
        else:
            raise ConfigError(
                f"environment variable {key}", ["names no place in the configuration"]
            )
    return tree


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _copy(v) for k, v in value.items()}
    return [_copy(v) for v in value] if isinstance(value, list) else value


def _descend(node: Any, part: str) -> Any:
    if isinstance(node, list) and part.isdigit() and int(part) < len(node):
        return node[int(part)]
    if isinstance(node, dict) and not part.isdigit():
        return node.setdefault(part, {})
    return None


def _scalar(text: str) -> Any:
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text


def _problem(error: Any, raw: Any) -> str:
    """One line of English for one pydantic error."""
    loc = [p for p in error["loc"] if not (isinstance(p, str) and p in _TAGS)]
    path = _path(loc)
    got = repr(error.get("input"))
    got = got if len(got) <= 60 else got[:57] + "..."
    if error["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(loc[-1]), _known_keys(loc[:-1], raw), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        return f"{path}: unknown key{hint}"
    if error["type"] == "missing":
        return f"{path}: expected a value, got none; this key is required"
    if error["type"].startswith("union_tag"):
        expected = error["ctx"].get("expected_tags", "a type")
        return f"{_path([*loc, 'type'])}: expected one of {expected}, got {_tag(error)}"
    message = error["msg"].removeprefix("Value error, ")
    message = message.replace("Input should be ", "expected ").replace(
        "Input should", "expected to"
    )
    return f"{path}: {message[0].lower() + message[1:]}, got {got}"


def _tag(error: Any) -> str:
    value = error.get("input")
    return repr(value.get("type")) if isinstance(value, dict) and "type" in value else "none"


_TAGS = {
    "embedded",
    "kafka",
    "number",
    "category",
    "calendar",
    "window",
    "risk",
    "function-before[_event_field()]",
}


def _path(loc: list[Any]) -> str:
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text or "the file"


def _known_keys(loc: list[Any], raw: Any) -> list[str]:
    """The keys that the settings class at ``loc`` knows."""
    node: Any = Config
    value: Any = raw
    for part in loc:
        value = value[part] if isinstance(value, dict | list) else {}
        if isinstance(part, int) or not (isinstance(node, type) and issubclass(node, BaseModel)):
            node = node if isinstance(node, list) else [node]
        else:
            node = _classes(node.model_fields[part].annotation)
        if isinstance(node, list):
            tag = value.get("type") if isinstance(value, dict) else None
            fits = [c for c in node if tag is None or tag in _literals(c)]
            node = fits[0] if len(fits) == 1 else node
    classes = node if isinstance(node, list) else [node]
    return sorted({k for c in classes for k in getattr(c, "model_fields", {})})


def _classes(annotation: Any) -> list[type[BaseModel]]:
    """Every settings class inside an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [c for a in get_args(annotation) for c in _classes(a)]


def _literals(cls: type[BaseModel]) -> tuple[Any, ...]:
    field = cls.model_fields.get("type")
    return get_args(field.annotation) if field else ()


def _cross_checks(raw: dict[str, Any]) -> Iterator[str]:
    """What one key alone cannot show; tolerant, so that it runs beside structural problems."""
    kinds = _field_kinds(raw)
    yield from _feature_problems(raw.get("features"), kinds)
    yield from _member_problems(raw.get("members"))
    yield from _audit_problems(raw)
    yield from _drift_problems(raw)
    http = raw.get("http")
    if isinstance(http, dict) and isinstance(http.get("host"), str) and not http.get("tokens"):
        try:
            loopback = ipaddress.ip_address(http["host"]).is_loopback
        except ValueError:
            loopback = http["host"] == "localhost"
        if not loopback:
            yield (
                f"http.host: expected a loopback address, got {http['host']!r}; "
                "to listen elsewhere configure http.tokens"
            )
    log = raw.get("log")
    if isinstance(log, dict) and str(log.get("security_protocol", "")).startswith("SASL"):
        for key in ("sasl_mechanism", "sasl_username", "sasl_password"):
            if not log.get(key):
                yield f"log.{key}: expected a value, got none; {log['security_protocol']} needs it"
    yield from _topic_problems(raw)
    yield from _field_problems(raw)
    limits = raw.get("limits")
    limits = limits if isinstance(limits, dict) else {}
    batch, pending = limits.get("batch", 4096), limits.get("pending", 1_000_000)
    if isinstance(batch, int) and isinstance(pending, int) and pending < batch:
        yield f"limits.pending: expected at least limits.batch = {batch}, got {pending}"


def _topic_problems(raw: dict[str, Any]) -> Iterator[str]:
    given = raw.get("topics")
    names = {
        k: f.default for k, f in TopicsSettings.model_fields.items() if isinstance(f.default, str)
    }
    names |= {k: v for k, v in (given if isinstance(given, dict) else {}).items()
              if isinstance(v, str)}  # fmt: skip
    names.setdefault("journal", f"journal-{raw.get('name', 'millrace')}")
    for key, name in names.items():
        same = [k for k, v in names.items() if v == name and k != key]
        if same and key > same[0]:
            yield f"topics.{key}: expected a name of its own, got {name!r}, as topics.{same[0]}"


def _field_problems(raw: dict[str, Any]) -> Iterator[str]:
    """JSON fields that two parts of the schema would read."""
    event, label = raw.get("event"), raw.get("label")
    event = event if isinstance(event, dict) else {}
    label = label if isinstance(label, dict) else {}
    taken = {event.get("id", "id"): "event.id", event.get("time", "time"): "event.time"}
    if label.get("inline"):
        taken[label.get("field", "label")] = "label.field"
    fields = event.get("fields")
    for name, field in (fields if isinstance(fields, dict) else {}).items():
        path = (field.get("path") if isinstance(field, dict) else None) or name
        if path in taken:
            yield (
                f"event.fields.{name}: expected a JSON field of its own, got {path!r}, "
                f"which {taken[path]} reads"
            )
        taken[path] = f"event.fields.{name}"


def _field_kinds(raw: dict[str, Any]) -> dict[str, str]:
    event = raw.get("event")
    fields = event.get("fields") if isinstance(event, dict) else None
    if not isinstance(fields, dict):
        return {}
    kinds = {k: v.get("kind", "") if isinstance(v, dict) else v for k, v in fields.items()}
    return {k: "number" if v == "boolean" else v for k, v in kinds.items() if isinstance(v, str)}


_FEATURE: TypeAdapter[Any] = TypeAdapter(Feature)


def _feature_problems(features: object, kinds: dict[str, str]) -> Iterator[str]:
    names: set[str] = set()
    for i, item in enumerate(features if isinstance(features, list) else []):
        try:
            feature = _FEATURE.validate_python(item)
        except ValidationError:
            continue  # reported by the structural pass
        if feature.name in names:
            yield f"features[{i}].name: expected a name of its own, got {feature.name!r} again"
        names.add(feature.name)
        for field, kind in feature_fields(feature):
            if kinds.get(field) != kind:
                got = f"{field!r}, a {kinds[field]} field" if field in kinds else repr(field)
                known = ", ".join(k for k, v in kinds.items() if v == kind) or "none"
                article = "an" if kind == "entity" else "a"
                yield (
                    f"features[{i}]: expected {article} {kind} field of event.fields ({known}), "
                    f"got {got}"
                )
        stats = getattr(feature, "stats", ())
        lacking = [s for s in stats if feature.type == "window" and s in VALUE_STATS]
        if lacking and feature.value is None:
            yield f"features[{i}].value: expected a number field for {lacking[0]}, got none"
        windows = getattr(feature, "windows", ())
        if 0 in windows or len(set(windows)) < len(windows):
            got = item["windows"]
            yield f"features[{i}].windows: expected different lengths above 0, got {got}"


def _member_problems(members: object) -> Iterator[str]:
    names: set[str] = set()
    for i, item in enumerate(members if isinstance(members, list) else []):
        if not isinstance(item, dict) or not isinstance(item.get("type"), str):
            continue  # reported by the structural pass
        name = item.get("name")
        if name in names:
            yield f"members[{i}].name: expected a name of its own, got {name!r} again"
        names.add(str(name))
        if name == "ensemble":
            yield f"members[{i}].name: expected another name, got 'ensemble', which all of them are"
        params = {k: v for k, v in item.items() if k not in MemberSettings.model_fields}
        try:
            cls = member_class(item["type"])
            cls.Params.model_validate(params)
        except UnknownMember as error:
            yield f"members[{i}].type: {error}"
        except ValidationError as error:
            for e in error.errors():
                line = _problem(e, params) if e["type"] != "extra_forbidden" else _unknown(e, cls)
                yield f"members[{i}].{line}"


def _audit_problems(raw: dict[str, Any]) -> Iterator[str]:
    """Budgets of members that do not exist would never act."""
    audit, members = raw.get("audit"), raw.get("members")
    budgets = audit.get("member") if isinstance(audit, dict) else None
    if isinstance(budgets, dict) and isinstance(members, list):
        names = [str(item.get("name")) for item in members if isinstance(item, dict)]
        for name in budgets:
            if name not in names:
                yield f"audit.member.{name}: expected a member's name ({', '.join(names)})"


def _drift_problems(raw: dict[str, Any]) -> Iterator[str]:
    """A reaction that could never do anything."""
    drift, ensemble = raw.get("drift"), raw.get("ensemble")
    drift = drift if isinstance(drift, dict) else {}
    combine = ensemble.get("combine", "mean_logit") if isinstance(ensemble, dict) else "mean_logit"
    learns = combine not in COMBINERS or bool(COMBINERS[combine](1, 0).parameters())
    if drift.get("on_alarm") == "weights" and not learns:
        yield (
            "drift.on_alarm: expected another reaction, got 'weights'; ensemble.combine = "
            f"{combine!r} has no weights to forget"
        )
    after, until = drift.get("challenger_after", 1000), drift.get("challenger_until", 10_000)
    if isinstance(after, int) and isinstance(until, int) and until < after:
        yield f"drift.challenger_until: expected at least challenger_after = {after}, got {until}"


def _unknown(error: Any, cls: Any) -> str:
    key = str(error["loc"][-1])
    close = difflib.get_close_matches(key, sorted(cls.Params.model_fields), n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{_path(list(error['loc']))}: unknown key{hint}"
