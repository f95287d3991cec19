"""The whole configuration: defined, defaulted, documented and validated once.

``load`` reads one TOML file, lays ``MILLRACE_...`` environment variables over it and returns a
:class:`Config`, or raises :class:`ConfigError` with every problem it found. The reference page
``docs/configuration.md`` is generated from these classes. Nothing here opens a log or a model.
"""

from __future__ import annotations

import difflib
import ipaddress
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    SecretStr,
    TypeAdapter,
    ValidationError,
)

from models.base import MillraceError
from models.registry import UnknownMember, member_class
from models.settings import Duration, Feature, Name, Settings, feature_fields, parse_duration

ENV_PREFIX = "MILLRACE_"


class ConfigError(MillraceError):
    """The configuration is not usable. ``problems`` holds one line for each mistake."""

    def __init__(self, source: str, problems: list[str]) -> None:
        self.source = source
        self.problems = problems
        lines = "\n".join(f"  {p}" for p in problems)
        super().__init__(f"{source}: {len(problems)} problem(s)\n{lines}")


class EmbeddedLog(Settings):
    """The log in one SQLite file: durable, atomic, no server."""

    type: Literal["embedded"]
    path: Path = Field(Path("state/log.db"), description="the SQLite file; made when missing")
    retention: Duration = Field(
        parse_duration("60d"),
        description="records older than this that no checkpoint needs are deleted",
    )
    timeout: Duration = Field(parse_duration("10s"), description="deadline of one operation")


class KafkaLog(Settings):
    """Apache Kafka 2.5 or newer. Passwords come from the environment only."""

    type: Literal["kafka"]
    bootstrap: str = Field(
        description="`host:port`, several with commas", pattern=r"^[^\s,:]+:\d+(,[^\s,:]+:\d+)*$"
    )
    delivery: Literal["exactly_once", "at_least_once"] = Field(
        "exactly_once",
        description="`at_least_once`: no transactions, lower latency; outputs carry the input's"
        " position in a header so that a reader can drop repeats",
    )
    transactional_id: str | None = Field(None, description="default `millrace-NAME`")
    transaction_timeout: Duration = Field(
        parse_duration("60s"), description="the broker aborts after this"
    )
    timeout: Duration = Field(parse_duration("30s"), description="deadline of one operation")
    replication_factor: int = Field(1, ge=1, le=32767, description="of topics it creates")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    ssl_cafile: Path | None = Field(None, description="certificate authority, PEM")
    ssl_certfile: Path | None = Field(None, description="client certificate, PEM")
    ssl_keyfile: Path | None = Field(None, description="client key, PEM")
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    sasl_username: str | None = None
    sasl_password: SecretStr | None = Field(
        None, description="only from the environment: `MILLRACE_LOG__SASL_PASSWORD`"
    )


class Topics(Settings):
    """Names of the topics, and how missing ones are made."""

    events: str = "events"
    labels: str = "labels"
    control: str = Field("control", description="operators' commands")
    scores: str = "scores"
    dead_letters: str = "dead-letters"
    audit: str = "audit"
    journal: str | None = Field(None, description="default `journal-NAME`; one partition")
    create: bool = Field(
        True, description="make missing topics; `false`: a missing one is an error"
    )
    partitions: int = Field(1, ge=1, le=1024, description="of events, labels and scores it creates")


FieldKind = Literal["number", "category", "entity", "boolean", "text"]


class EventField(Settings):
    """One field of an event. ``amount = "number"`` is short for ``{ kind = "number" }``."""

    kind: FieldKind
    required: bool = Field(True, description="`false`: may be missing or null")
    path: str | None = Field(None, description="name in the JSON object, if another")


def _event_field(value: object) -> object:
    return {"kind": value} if isinstance(value, str) else value


class Event(Settings):
    """The schema of an event."""

    id: str = Field("id", description="JSON field with the unique id: text or integer")
    time: str = Field("time", description="JSON field with the event time")
    time_format: Literal["s", "ms", "rfc3339"] = Field(
        "rfc3339", description="epoch seconds (fractions allowed), epoch milliseconds, RFC 3339"
    )
    fields: dict[str, Annotated[EventField, BeforeValidator(_event_field)]] = Field(
        min_length=1,
        description="name to kind: `number`, `category`, `entity`, `boolean`, `text` (ignored)",
    )
    unknown_fields: Literal["ignore", "reject"] = "ignore"


def _text_keys(value: object) -> object:
    if isinstance(value, dict):
        return {str(k).lower() if isinstance(k, bool) else str(k): v for k, v in value.items()}
    return value


class Label(Settings):
    """How the truth about an event arrives."""

    event_id: str | None = Field(
        None, description="JSON field of a label that names its event; default the event's id field"
    )
    field: str = Field("label", description="JSON field with the truth")
    time: str | None = Field(
        None, description="JSON field with the time the label was made, if it has one"
    )
    values: Annotated[dict[str, Literal[0, 1]], BeforeValidator(_text_keys)] = Field(
        {"true": 1, "false": 0, "1": 1, "0": 0},
        min_length=1,
        description="the JSON value, written as text, to 0 or 1; any other value is a dead letter",
    )
    inline: bool = Field(False, description="the event itself carries the label")
    horizon: Duration = Field(
        parse_duration("30d"), description="how long an event waits, by event time"
    )
    at_horizon: Literal["negative", "drop"] = Field(
        "negative", description="an event without a label by then counts as 0, or is not learned"
    )


class Member(BaseModel):
    """One learner: a name, a type, and the type's own parameters beside them."""

    model_config = Settings.model_config | {"extra": "allow"}

    name: Name
    type: str = Field(description="`river`, `torch`, `constant`, or an installed plug-in's name")
    learn_every: int = Field(1, ge=1, description="learns only each n-th labelled row")

    @property
    def params(self) -> dict[str, Any]:
        """The type's own parameters, as written."""
        return dict(self.model_extra or {})


class Ensemble(Settings):
    """How members become one score."""

    combine: Literal[
        "mean_logit",
        "mean_probability",
        "majority_vote",
        "weighted_vote",
        "bagging",
        "stacking",
        "stack",
    ] = Field(
        "mean_logit",
        description="`stack`: a logistic stack shared with safer experts; `stacking`: the stack"
        " alone; `bagging`: members learn rows with Poisson(1) weights",
    )
    threshold: float = Field(0.5, gt=0, lt=1, description="a score at or above it is an alert")


class Checkpoints(Settings):
    """When the state is saved. A checkpoint is a cache: the journal is the truth."""

    interval: Duration = Field(parse_duration("60s"), description="at most this long between two")
    recovery_budget: Duration = Field(
        parse_duration("3s"),
        description="one falls due as soon as the estimated replay would take longer",
    )
    keep: int = Field(3, ge=2, le=1000, description="generations kept")
    on_divergence: Literal["stop", "warn"] = Field(
        "stop", description="when a replay gives other bits than the journal holds"
    )


class Token(Settings):
    """A bearer token, by the SHA-256 of its text (``millrace token`` makes one)."""

    name: Name
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    scopes: tuple[Literal["score", "label", "admin"], ...] = Field(min_length=1)


class Http(Settings):
    """The HTTP server: ingest, scores, health, metrics."""

    enabled: bool = True
    host: str = Field("127.0.0.1", description="loopback only, unless a token is configured")
    port: int = Field(8080, ge=0, le=65535, description="0: any free port")
    tokens: tuple[Token, ...] = ()
    max_body_bytes: int = Field(1 << 20, ge=1024, description="larger requests get a 413")
    score_timeout: Duration = Field(parse_duration("2s"), description="how long `/v1/score` waits")
    max_waiting: int = Field(1024, ge=1, description="scores waited for at once; then 503")


class Limits(Settings):
    """Every bound of memory and work; each is a metric too."""

    batch: int = Field(4096, ge=1, le=1 << 20, description="records in one step")
    record_bytes: int = Field(262_144, ge=64, description="longer records are dead letters")
    pending: int = Field(
        1_000_000, ge=1, description="events waiting for a label; then the oldest is let go"
    )
    early_labels: int = Field(
        100_000, ge=1, description="labels waiting for their event; then the oldest is let go"
    )
    ahead: Duration = Field(
        parse_duration("1h"),
        description="an event time further ahead of the clock is a dead letter",
    )
    dead_letter_share: float = Field(
        0.5, gt=0, le=1, description="above this share of the last 1,000 records the service stops"
    )


class Config(Settings):
    """The configuration of one shard: one engine, one state directory, one set of partitions."""

    name: Name = Field("millrace", description="names the shard, its journal and its metrics")
    seed: int = Field(0, ge=0, lt=1 << 63, description="of everything random")
    state_dir: Path = Field(Path("state"), description="checkpoints and pending events")
    log: Annotated[EmbeddedLog | KafkaLog, Field(discriminator="type")]
    topics: Topics = Topics()
    event: Event
    label: Label = Label()
    features: tuple[Feature, ...] = Field(min_length=1)
    members: tuple[Member, ...] = Field(min_length=1, max_length=64)
    ensemble: Ensemble = Ensemble()
    checkpoints: Checkpoints = Checkpoints()
    http: Http = Http()
    limits: Limits = Limits()

    @property
    def journal_topic(self) -> str:
        """The journal's topic: ``topics.journal``, or ``journal-NAME``."""
        return self.topics.journal or f"journal-{self.name}"

    @property
    def label_event_id(self) -> str:
        """The label's field that names its event."""
        return self.label.event_id or self.event.id


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
    if isinstance(node, dict):
        return node.setdefault(part, {})
    if isinstance(node, list) and part.isdigit() and int(part) < len(node):
        return node[int(part)]
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
    topics = {k: v for k, v in raw.get("topics", {}).items() if isinstance(v, str)}
    if len(set(topics.values())) < len(topics):
        yield f"topics: expected a different name for each, got {sorted(topics.values())}"


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
        for field, kind in feature_fields(feature).items():
            if kinds.get(field) != kind:
                got = f"{field!r}, a {kinds[field]} field" if field in kinds else repr(field)
                known = ", ".join(k for k, v in kinds.items() if v == kind) or "none"
                yield f"features[{i}]: expected a {kind} field of event.fields ({known}), got {got}"
        stats = getattr(feature, "stats", ())
        if feature.type == "window" and feature.value is None and {"sum", "mean"} & set(stats):
            yield f"features[{i}].value: expected a number field for sum or mean, got none"


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
        params = {k: v for k, v in item.items() if k not in Member.model_fields}
        try:
            cls = member_class(item["type"])
            cls.Params.model_validate(params)
        except UnknownMember as error:
            yield f"members[{i}].type: {error}"
        except ValidationError as error:
            for e in error.errors():
                line = _problem(e, params) if e["type"] != "extra_forbidden" else _unknown(e, cls)
                yield f"members[{i}].{line}"


def _unknown(error: Any, cls: Any) -> str:
    key = str(error["loc"][-1])
    close = difflib.get_close_matches(key, sorted(cls.Params.model_fields), n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{_path(list(error['loc']))}: unknown key{hint}"


def canonical(config: Config) -> dict[str, Any]:
    """The configuration as plain data without secrets: what checkpoints and the journal carry."""
    return config.model_dump(mode="json", exclude={"log": {"sasl_password"}})
