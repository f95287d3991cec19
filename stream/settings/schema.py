"""The settings of one shard: every key, its type, default, bounds and meaning, in one place.

``docs/configuration.md`` is generated from these classes. Settings of features stand in
``models/settings.py``, those of the auditor in ``monitoring/audit/budgets.py``, those of a shard
that ranks in ``ranking.py``, those of members beside their code.
"""

from __future__ import annotations

import hashlib
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    SecretStr,
    model_validator,
)

from models.settings import (
    Duration,
    Feature,
    Name,
    Settings,
    Size,
    Zone,
    parse_duration,
    parse_size,
    refused,
)
from models.target import BinaryTarget, Target
from models.task import Binary, Task, TaskType
from monitoring.audit.budgets import AuditSettings
from monitoring.drift.settings import ChallengersSettings, DriftSettings, GuardSettings
from stream.settings.paths import FieldName, JsonPath, place
from stream.settings.ranking import (
    OF_USER,
    RANKING_EVENT,
    ROW_ENTITIES,
    UTILITY,
    RankingSettings,
)
from stream.settings.shape import HIDDEN, Place


class EmbeddedLogSettings(Settings):
    """The log in one SQLite file: durable, atomic, no server."""

    type: Literal["embedded"]
    path: Path = Field(Path("state/log.db"), description="the SQLite file; made when missing")
    retention: Duration = Field(
        parse_duration("60d"),
        description="records older than this that no checkpoint needs are deleted",
    )
    timeout: Duration = Field(parse_duration("10s"), description="deadline of one operation")


class KafkaLogSettings(Settings):
    """Apache Kafka 2.5 or newer. Passwords come from the environment only."""

    type: Literal["kafka"]
    bootstrap: str = Field(
        description="`host:port`, several with commas", pattern=r"^[^\s,:]+:\d+(,[^\s,:]+:\d+)*$"
    )
    client: Literal["kafka-python", "confluent"] = Field(
        "kafka-python",
        description="`confluent`: librdkafka, faster; needs `pip install millrace[confluent]`",
    )
    delivery: Literal["exactly_once", "at_least_once"] = Field(
        "exactly_once",
        description="`at_least_once`: no transactions, lower latency; outputs carry a header"
        " `millrace-position` (shard/step/index), the same in a repeat, by which readers drop it",
    )
    transactional_id: str | None = Field(None, description="default `millrace-NAME`")
    transaction_timeout: Duration = Field(
        parse_duration("60s"), description="the broker aborts after this; at least `timeout`"
    )
    timeout: Duration = Field(parse_duration("30s"), description="deadline of one operation")
    replication_factor: int = Field(1, ge=1, le=32767, description="of topics it creates")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="as the broker's listener has it"
    )
    ssl_cafile: Path | None = Field(None, description="certificate authority, PEM")
    ssl_certfile: Path | None = Field(None, description="client certificate, PEM")
    ssl_keyfile: Path | None = Field(None, description="client key, PEM")
    ssl_check_hostname: bool = Field(
        True,
        description="`false`: any certificate of `ssl_cafile` will do, whatever host it names; a"
        " warning at every start",
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = (
        Field(None, description="needed with SASL")
    )
    sasl_username: str | None = Field(
        None, description="needed with PLAIN and SCRAM; with `sasl_oauth_url` the client's id"
    )
    sasl_password: SecretStr | None = Field(
        None, description="only from the environment: `MILLRACE_LOG__SASL_PASSWORD`"
    )
    sasl_oauth_command: tuple[str, ...] = Field(
        (),
        description="for OAUTHBEARER: a program and its arguments, run without a shell, that prints"
        " a token or an answer as that of `sasl_oauth_url`",
    )
    sasl_oauth_url: str | None = Field(
        None,
        pattern=r"^https?://",
        description="for OAUTHBEARER: where an OpenID provider gives tokens for client credentials",
    )
    sasl_oauth_scope: str | None = Field(None, description="asked for at `sasl_oauth_url`")

    def transactions_of(self, shard: str) -> str:
        """The transactional id of a shard."""
        return self.transactional_id or f"millrace-{shard}"


class TopicsSettings(Settings):
    """Names of the topics, and how missing ones are made."""

    events: str = Field("events", description="input: what is scored")
    labels: str = Field("labels", description="input: the truth about events")
    control: str = Field("control", description="input: operators' commands")
    scores: str = Field("scores", description="output: one record for each event that was scored")
    dead_letters: str = Field("dead-letters", description="output: records that were not taken in")
    audit: str = Field("audit", description="output: the audit trail")
    witness: str | None = Field(
        None,
        description="output: signed heads of the audit trail, every `audit.anchor_every` records"
        " and with each checkpoint; default none",
    )
    journal: str | None = Field(
        None, description="output: what each step took; default `journal-NAME`, one partition"
    )
    create: bool = Field(
        True, description="make missing topics; `false`: a missing one is an error"
    )
    partitions: int = Field(
        1,
        ge=1,
        le=1024,
        description="of events, labels and scores it creates; of scores on Kafka as many as events"
        " have that are there",
    )
    metadata_age: Duration = Field(
        parse_duration("30s"),
        description="how often the topics are looked at: partitions that were added join the input,"
        " a topic that was deleted or made anew ends the service",
    )


def _text_keys(value: object) -> object:
    if isinstance(value, dict):
        return {str(k).lower() if isinstance(k, bool) else str(k): v for k, v in value.items()}
    return value


FieldKind = Literal["number", "category", "entity", "boolean", "text"]
Decimal = Literal[".", ","]
Thousands = Literal[",", ".", " ", "'", "_"]


def _marks_differ(decimal: str | None, thousands: str | None) -> None:
    """Digits are grouped only where another mark ends them; raises what ``refused`` makes."""
    if thousands is not None and thousands == (decimal or thousands):
        raise refused(("thousands",), "expected a decimal mark beside it, another one", thousands)


class FieldSettings(Settings):
    """One field of an event. ``amount = "number"`` is short for ``{ kind = "number" }``."""

    kind: FieldKind = Field(description="`text` is accepted and not used")
    required: bool = Field(True, description="`false`: may be missing or null")
    path: JsonPath | None = Field(
        None,
        description="where it stands, if not at the root under its own name: `customer.id`,"
        " `items.0.price`, or a JSON pointer such as `/a~1b/c` for names with dots",
    )
    decimal: Decimal | None = Field(
        None, description="a number may also be written in text, with this decimal mark"
    )
    thousands: Thousands | None = Field(
        None, description="the mark that may stand between groups of three digits in such text"
    )
    values: Annotated[dict[str, bool | int | str], BeforeValidator(_text_keys)] | None = Field(
        None,
        min_length=1,
        description="a JSON value, written as text, to what it stands for; of a boolean to `true`"
        " and `false` or 1 and 0, any other is a dead letter; of a category or entity to its one"
        " name, any other stays as it is",
    )
    default: bool | int | Annotated[float, Field(allow_inf_nan=False)] | str | None = Field(
        None, description="what counts where it is missing or null, which it then may be"
    )

    @property
    def needed(self) -> bool:
        """Whether an event must have it."""
        return self.required and self.default is None and self.kind != "text"

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        named = self.kind in ("category", "entity")
        if self.decimal is not None and self.kind != "number":
            raise refused(("decimal",), f"expected none for a {self.kind} field", self.decimal)
        _marks_differ(self.decimal, self.thousands)
        if self.values is not None:
            if not named and self.kind != "boolean":
                raise refused(("values",), f"expected none for a {self.kind} field", self.values)
            for text, value in self.values.items():
                if (value not in (0, 1)) if self.kind == "boolean" else isinstance(value, bool):
                    wanted = "true or false" if self.kind == "boolean" else "text or an integer"
                    raise refused(("values", text), f"expected {wanted}", value)
        if self.default is not None and not self._is_one(self.default):
            raise refused(("default",), f"expected a value of a {self.kind} field", self.default)
        return self

    def _is_one(self, value: bool | float | str) -> bool:
        if self.kind == "boolean":
            return isinstance(value, bool)
        if self.kind == "number":
            return isinstance(value, int | float) and not isinstance(value, bool)
        return self.kind != "text" and isinstance(value, str | int) and not isinstance(value, bool)


TIME_FORMATS = ("s", "ms", "us", "ns", "rfc3339")
"""Formats of moments by name; any other is a pattern."""


def _time_format(value: str) -> str:
    if value in TIME_FORMATS:
        return value
    known = ", ".join(map(repr, TIME_FORMATS))
    if "%" not in value:
        raise ValueError(f"expected one of {known}, or a pattern such as '%d.%m.%Y %H:%M'")
    sample = datetime(2031, 11, 23, 22, 58, 59, tzinfo=UTC)
    try:
        # %Z reads names of the machine's own zone.
        read = None if "%Z" in value else datetime.strptime(sample.strftime(value), value)
    except ValueError:
        read = None
    if read is None or read.date() != sample.date():
        raise ValueError(
            f"expected one of {known}, or a pattern of strptime's with day, month and year and "
            "without %Z"
        )
    return value


TimeFormat = Annotated[str, AfterValidator(_time_format)]


def _event_field(value: object) -> object:
    return {"kind": value} if isinstance(value, str) else value


InputFormat = Literal["json", "avro", "protobuf", "json-schema", "cloudevents"]
"""How the records of an input are written."""
OutputFormat = Literal[
    "json", "avro", "protobuf", "json-schema", "cloudevents", "cloudevents-binary"
]
"""How the records of an output are written."""
TRAINED = "refit"
"""The type of members that fall due, are trained beside the stream, and installed; where they are
members of the configuration, nobody else would train one."""
SCHEMA_TYPES = {"avro": "AVRO", "protobuf": "PROTOBUF", "json-schema": "JSON"}
"""The formats whose records name a schema of the registry, and what it calls such a schema."""


class EventSettings(Settings):
    """The schema of an event."""

    format: InputFormat = Field(
        "json",
        description="how events are written on their topic; `avro`, `protobuf` and `json-schema`:"
        " with the number of a schema in `[registry]`",
    )

    id: JsonPath = Field("id", description="path of the unique id: text or integer")
    time: JsonPath = Field("time", description="path of the event time")
    time_format: TimeFormat = Field(
        "rfc3339",
        description="`s` (fractions allowed), `ms`, `us` or `ns` since 1970, each a number or"
        " digits in text; `rfc3339`; or a pattern of strptime's such as `%d.%m.%Y %H:%M`, with `%z`"
        " or in `time_zone`",
    )
    time_zone: Zone | None = Field(
        None, description="where the clock stood that a pattern without `%z` writes"
    )
    fields: dict[FieldName, Annotated[FieldSettings, BeforeValidator(_event_field)]] = Field(
        min_length=1,
        description="name to kind: `number`, `category`, `entity`, `boolean`, `text` (ignored)",
    )
    unknown_fields: Literal["ignore", "reject"] = Field(
        "ignore", description="`reject`: an event with any other field is a dead letter"
    )

    def place(self, name: str) -> Place:
        """Where in an event the field of that name stands."""
        path = self.fields[name].path
        return (name,) if path is None else place(path)


def _truth(value: object) -> object:
    if isinstance(value, str) or (type(value) is int and value in (0, 1)):
        return value
    raise ValueError("expected 0 or 1, or the name of a class")


_Truth = Annotated[int | str, BeforeValidator(_truth)]


class LabelSettings(Settings):
    """How the truth about an event arrives."""

    format: InputFormat = Field("json", description="how labels are written, as `event.format`")

    event_id: JsonPath | None = Field(
        None, description="path in a label of its event's id; default as in the event"
    )
    field: JsonPath = Field("label", description="path of the truth")
    time: JsonPath | None = Field(
        None, description="path of the time the label was made, if it has one"
    )
    time_format: TimeFormat | None = Field(
        None, description="how `label.time` is written; default `event.time_format`"
    )
    corrects: JsonPath = Field(
        "corrects",
        description="path of a boolean that need not be there: `true` where the label stands in the"
        " place of an older one",
    )
    values: Annotated[dict[str, _Truth], BeforeValidator(_text_keys)] | None = Field(
        None,
        min_length=1,
        description="the JSON value, written as text, to 0 or 1, or to a class of `[target]`; any"
        " other value is a dead letter. Default: `true`, `1`, `false` and `0`, or the classes",
    )
    decimal: Decimal | None = Field(
        None,
        description="the truth of a number may also be written in text, with this decimal mark",
    )
    thousands: Thousands | None = Field(
        None, description="the mark that may stand between groups of three digits in such text"
    )
    inline: bool = Field(False, description="the event itself carries the label")
    horizon: Duration = Field(
        parse_duration("30d"), description="how long an event waits, by event time"
    )
    at_horizon: str | None = Field(
        None,
        description="what an event without a label by then counts as: `negative`, a class or a"
        " number of `[target]`; `drop`: it is not learned. Default: `negative` for yes or no, else"
        " `drop`",
    )
    learning: Literal["auto", "mature", "corrected", "arrival"] = Field(
        "auto",
        description="`arrival`: labels are learned as they come; `mature`: each event at its"
        " horizon; `corrected`: each in two weighted parts, at 0.4 of its horizon and at its end;"
        " `auto`: `arrival` where most negatives are told, else `corrected`",
    )

    @model_validator(mode="after")
    def _has_marks(self) -> Self:
        _marks_differ(self.decimal, self.thousands)
        return self


def _header_name(name: str) -> str:
    if not name or name.startswith("millrace-"):
        raise ValueError("expected the name of a header that does not begin with `millrace-`")
    return name


class ScoresSettings(Settings):
    """What score records carry beside the score."""

    format: OutputFormat = Field(
        "json",
        description="how scores are written on their topic; `avro`, `protobuf` and `json-schema` by"
        " a schema under the subject `TOPIC-value` of `[registry]`",
    )
    key: Literal["id", "input"] = Field(
        "id",
        description="of a score record: the event's id, or the event's own key (its id where it has"
        " none). Its hash chooses the partition, as Kafka's default partitioner does",
    )
    headers: tuple[Annotated[str, AfterValidator(_header_name)], ...] = Field(
        (),
        max_length=32,
        description="headers of the event that its score carries on, such as `traceparent`; of each"
        " event's the first 4 KiB",
    )
    timestamp: Literal["step", "event"] = Field(
        "step",
        description="the record's timestamp: the clock of the step, or the event's time if that is"
        " not later; a topic's retention goes by it",
    )


class RegistrySettings(Settings):
    """The schema registry, by the REST paths of Confluent's. Secrets come from the environment."""

    url: str = Field(
        description="such as `https://registry:8081`", pattern=r"^https?://[^\s/@?#]+(/[^\s@?#]*)?$"
    )
    username: str | None = Field(None, description="for basic authentication")
    password: SecretStr | None = Field(
        None, description="only from the environment: `MILLRACE_REGISTRY__PASSWORD`"
    )
    token: SecretStr | None = Field(
        None, description="bearer token, only from the environment: `MILLRACE_REGISTRY__TOKEN`"
    )
    ssl_cafile: Path | None = Field(None, description="certificate authority, PEM")
    timeout: Duration = Field(parse_duration("5s"), description="deadline of one step of a request")
    auto_register: bool = Field(
        False, description="register the schema of scores where it is not; else a start is refused"
    )


class MemberSettings(BaseModel):
    """One learner: a name, a type, and the type's own parameters beside them."""

    model_config = Settings.model_config | {"extra": "allow"}

    name: Name
    type: str = Field(
        description="`logistic`, `crossed`, `forest`, `boosting`, `refit`, `river`, `torch`,"
        " `constant`, or an installed plug-in's name"
    )
    learn_every: int = Field(1, ge=1, description="learns only each n-th labelled row")
    features: tuple[Name, ...] | None = Field(
        None,
        min_length=1,
        description="names of the features that it sees; default all, those that come later too",
    )

    def sees(self, feature: str) -> bool:
        """Whether the feature of that name is one of its own."""
        return self.features is None or feature in self.features

    @property
    def params(self) -> dict[str, Any]:
        """The type's own parameters, as written."""
        return dict(self.model_extra or {})


class EnsembleSettings(Settings):
    """How members become one score."""

    combine: Literal[
        "mean_logit",
        "mean_probability",
        "majority_vote",
        "weighted_vote",
        "bagging",
        "boosting",
        "stacking",
        "stack",
    ] = Field(
        "mean_logit",
        description="`stack`: a logistic stack shared with safer experts; `stacking`: the stack"
        " alone; `bagging`: members learn rows with Poisson(1) weights; `boosting`: each member"
        " learns most where those before it were wrong",
    )
    threshold: float = Field(0.5, gt=0, lt=1, description="a score at or above it is an alert")
    prior: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="the score before any member has learned; default: the share of positives"
        " learned so far, 0.5 before the first label, which alerts nothing",
    )


class ReasonsSettings(Settings):
    """Why an event has its score: what features do to it, through the members that can tell."""

    tell: Literal["all", "alerts", "asked"] = Field(
        "alerts",
        description="with which scores; `asked`: with none, only over HTTP by `what-if` and"
        " `reasons`",
    )
    most: int = Field(4, ge=1, le=64, description="reasons shown of one score")
    groups: dict[Name, tuple[Name, ...]] = Field(
        {}, description="names of one reason for several features; each of them in one at most"
    )
    texts: dict[Name, str] = Field(
        {}, description="what people read, by group, feature without one, or member"
    )


class QualitySettings(Settings):
    """How the quality of scores is told."""

    alert_budget: float = Field(
        10.0,
        gt=0,
        le=1000,
        description="alerts for 1,000 events that somebody can look at: of so many of the highest"
        " scores `millrace_alert_precision_at_budget_ratio` is the precision",
    )


class CheckpointsSettings(Settings):
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


class VersionsSettings(Settings):
    """Which versions of each member are kept, for it to become one of them again."""

    every: Duration = Field(
        parse_duration("1d"),
        gt=0,
        description="event time between two regular ones; one more is kept of what another model"
        " replaces",
    )
    keep: int = Field(30, ge=1, le=1000, description="kept of each member, beside those pinned")


class HistorySettings(Settings):
    """The rows that were learned, for members that come later and models trained elsewhere."""

    keep: Duration = Field(
        parse_duration("30d"), description="event time for which they are kept; 0s: none are"
    )
    disk: Size = Field(
        parse_size("256MB"), ge=1_000_000, description="and the disk that they take at most"
    )


_OF_NOTHING = {hashlib.sha256(text).hexdigest() for text in (b"", b"\n", b" ")}
"""What a recipe gives that made no token."""


def _token_hash(sha256: str) -> str:
    if sha256 in _OF_NOTHING:
        raise ValueError("expected the SHA-256 of a token, got that of an empty text")
    return sha256


class TokenSettings(Settings):
    """A bearer token, by the SHA-256 of its text (``millrace token`` makes one)."""

    name: Name
    sha256: Annotated[str, AfterValidator(_token_hash)] = Field(
        pattern=r"^[0-9a-f]{64}$", description="64 hexadecimal digits", json_schema_extra=HIDDEN
    )
    scopes: tuple[Literal["score", "label", "admin"], ...] = Field(
        min_length=1, description="what it may do; `admin` may do everything"
    )


class TlsSettings(Settings):
    """TLS 1.2 or newer for HTTP, on the same port. Files that change are read again."""

    certfile: Path = Field(description="the server's certificate and its authorities', PEM")
    keyfile: Path = Field(description="its private key, PEM, without a password")


class HttpSettings(Settings):
    """The HTTP server: ingest, scores, health, metrics."""

    enabled: bool = Field(True, description="`false`: no HTTP at all, no metrics either")
    host: str = Field("127.0.0.1", description="loopback only, unless a token is configured")
    port: int = Field(8080, ge=0, le=65535, description="0: any free port")
    tokens: tuple[TokenSettings, ...] = Field((), description="who may call; none: everybody may")
    tls: TlsSettings | None = None
    max_body_bytes: int = Field(1 << 20, ge=1024, description="larger requests get a 413")
    score_timeout: Duration = Field(parse_duration("2s"), description="how long `/v1/score` waits")
    max_waiting: int = Field(1024, ge=1, description="scores waited for at once; then 503")


def _room(value: object) -> object:
    if isinstance(value, str):
        parse_size(value)
    elif type(value) is not int or value < 1:
        raise ValueError('expected a number of events, or a size such as "20GB"')
    return value


class LimitsSettings(Settings):
    """Every bound of memory and work; each is a metric too."""

    batch: int = Field(4096, ge=1, le=1 << 20, description="records in one step")
    record_bytes: int = Field(262_144, ge=64, description="longer records are dead letters")
    pending: Annotated[int | str, BeforeValidator(_room)] | None = Field(
        None,
        description="events waiting for a label, by number or by the disk that they take"
        ' (`"20GB"`); then the oldest is let go. Default: a quarter of the disk that is free at the'
        " first step, of which memory can hold the index; the journal says how many",
    )
    early_labels: int = Field(
        100_000, ge=1, description="labels waiting for their event; then the oldest is let go"
    )
    ahead: Duration = Field(
        parse_duration("1h"),
        description="an event time further ahead of the clock is a dead letter",
    )
    threads: int | None = Field(
        None,
        ge=1,
        le=64,
        description="in how many threads members score and learn; default: as many as the process"
        " has cores. No bit of a score or a state depends on it",
    )
    dead_letter_share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="with more than this share of the last 1,000 records of a topic unusable the"
        " service stops",
    )


class ShardSettings(Settings):
    """Which part of a service this process does: all, or what one of many processes does."""

    role: Literal["all", "scorer", "learner"] = Field(
        "all",
        description="`scorer`: scores its share of the partitions and hands what labels tell to the"
        " one `learner`, whose versions of the members it takes over; both need Kafka",
    )
    index: int = Field(0, ge=0, le=1023, description="which of the scorers, from 0")
    count: int = Field(
        1,
        ge=1,
        le=1024,
        description="how many scorers there are: partition p is read by scorer p modulo `count`",
    )
    entity: FieldName | None = Field(
        None,
        description="the entity by which events are spread over partitions; of any other only"
        " risk is known, and no windows. Default: the first entity of `event.fields`",
    )
    labels: Literal["partition", "any"] = Field(
        "partition",
        description="where labels stand: in the `partition` of their event, which its score names,"
        " or in `any`: scorers then hand each label on to the one that holds its event",
    )
    every: Duration = Field(
        parse_duration("10s"),
        gt=0,
        description="event time between two versions of the learner; keep it short beside the time"
        " after which labels come",
    )
    service: Name | None = Field(
        None,
        description="the `name` in the file, which all its processes share; set by itself, with"
        " names such as `NAME-scorer-0` and folders such as `state_dir/scorer-0` for each",
    )


def _of_rows(members: object) -> dict[str, str]:
    """The fields that each candidate of a ranking has, by kind; ``members``: those of ``[reco]``,
    by default the usual ones. A configuration on record names those that are not there, too."""
    names = RankingSettings().members.names
    if isinstance(members, dict):
        names = tuple(name for name, given in members.items() if given is not None)
    return dict.fromkeys(ROW_ENTITIES, "entity") | dict.fromkeys((UTILITY, *names), "number")


def _is_number(name: str, field: object, rows: dict[str, str]) -> bool:
    """Whether a file says more of a number of rows than that there is one, as its default."""
    return rows.get(name) == "number" and isinstance(field, dict) and field.get("kind") == "number"


def process(role: str, index: int) -> str:
    """What tells a process of a service from the others in names."""
    return role if role == "learner" else f"{role}-{index}"


class Config(Settings):
    """The configuration of one shard: one engine, one state directory, one set of partitions."""

    name: Name = Field("millrace", description="names the shard, its journal and its metrics")
    seed: int = Field(0, ge=0, lt=1 << 63, description="of everything random")
    state_dir: Path = Field(Path("state"), description="checkpoints and pending events")
    log: Annotated[EmbeddedLogSettings | KafkaLogSettings, Field(discriminator="type")]
    topics: TopicsSettings = TopicsSettings()
    event: EventSettings
    label: LabelSettings = LabelSettings()
    target: Target = BinaryTarget()
    scores: ScoresSettings = ScoresSettings()
    registry: RegistrySettings | None = None
    shard: ShardSettings = ShardSettings()
    features: tuple[Feature, ...] = ()
    members: tuple[MemberSettings, ...] = Field((), max_length=64)
    reco: RankingSettings | None = None
    ensemble: EnsembleSettings = EnsembleSettings()
    drift: DriftSettings = DriftSettings()
    challengers: ChallengersSettings = ChallengersSettings()
    guard: GuardSettings = GuardSettings()
    quality: QualitySettings = QualitySettings()
    reasons: ReasonsSettings | None = None
    checkpoints: CheckpointsSettings = CheckpointsSettings()
    versions: VersionsSettings = VersionsSettings()
    history: HistorySettings = HistorySettings()
    http: HttpSettings = HttpSettings()
    limits: LimitsSettings = LimitsSettings()
    audit: AuditSettings = AuditSettings()

    @model_validator(mode="before")
    @classmethod
    def _of_ranking(cls, raw: Any) -> Any:
        """Where items are ranked the events have one form, and their times are in milliseconds."""
        if not isinstance(raw, dict) or not isinstance(raw.get("target"), dict):
            return raw
        if raw["target"].get("type") != "ranking":
            return raw
        event, reco = raw.get("event", {}), raw.get("reco", {})
        if isinstance(event, dict):
            event = RANKING_EVENT | event
            if raw.get("members") and isinstance(event["fields"], dict):
                given = reco.get("members") if isinstance(reco, dict) else None
                rows = _of_rows(given)
                said = {k: v for k, v in event["fields"].items() if _is_number(k, v, rows)}
                event["fields"] = event["fields"] | rows | said
            raw = raw | {"event": event, "reco": reco}
        return raw

    @model_validator(mode="before")
    @classmethod
    def _of_role(cls, raw: Any) -> Any:
        """One file serves all processes of a service: each has a name and a folder of its own."""
        shard = raw.get("shard") if isinstance(raw, dict) else None
        if not isinstance(shard, dict) or shard.get("role") not in ("scorer", "learner"):
            return raw
        service = raw.get("name", cls.model_fields["name"].default)
        state_dir = raw.get("state_dir", cls.model_fields["state_dir"].default)
        right = isinstance(service, str) and isinstance(state_dir, str | Path)
        if shard.get("service") is not None or not right:
            return raw
        own = process(shard["role"], shard.get("index", 0))
        return raw | {
            "name": f"{service}-{own}",
            "state_dir": Path(state_dir) / own,
            "shard": shard | {"service": service},
        }

    @property
    def service(self) -> str:
        """The name that all processes of a service share."""
        return self.shard.service or self.name

    @property
    def processes(self) -> tuple[str, ...]:
        """Names of all processes of the service, this one among them."""
        if self.shard.role == "all":
            return (self.name,)
        own = [process("scorer", index) for index in range(self.shard.count)]
        return tuple(f"{self.service}-{one}" for one in (*own, process("learner", 0)))

    @property
    def examples_topic(self) -> str:
        """Where scorers hand over what labels tell: ``examples-SERVICE``, a partition for each."""
        return f"examples-{self.service}"

    @property
    def models_topic(self) -> str:
        """Where the learner hands over versions of the members: ``models-SERVICE``."""
        return f"models-{self.service}"

    @property
    def risk_topic(self) -> str:
        """Where scorers tell each other of entities by which events are not spread.

        ``risk-SERVICE``, a partition for each.
        """
        return f"risk-{self.service}"

    @property
    def routes_topic(self) -> str:
        """Where scorers hand labels on to each other: ``routes-SERVICE``, a partition for each."""
        return f"routes-{self.service}"

    @property
    def told_topics(self) -> tuple[str, str]:
        """Where scorers tell each other of events and labels."""
        return self.risk_topic, self.routes_topic

    @property
    def routed(self) -> bool:
        """Whether this is a scorer to which others hand labels on."""
        shard = self.shard
        return shard.role == "scorer" and shard.count > 1 and shard.labels == "any"

    @property
    def entity(self) -> str | None:
        """The entity by which events are spread over partitions; ``None`` where there is none."""
        entities = (name for name, field in self.event.fields.items() if field.kind == "entity")
        return self.shard.entity or next(entities, None)

    @property
    def spread(self) -> tuple[str, ...]:
        """Of a scorer the entities whose events it alone scores."""
        if self.shard.role != "scorer":
            return ()
        return self.own_entities

    @property
    def own_entities(self) -> tuple[str, ...]:
        """Entities whose events all stand in one partition: that by which they are spread over
        partitions, and what there is only beside it."""
        if self.reco is not None:
            return OF_USER
        return () if self.entity is None else (self.entity,)

    @property
    def answers_anyone(self) -> bool:
        """Whether this is a scorer that ranks: all know the same, so that any may answer."""
        return self.shard.role == "scorer" and self.reco is not None

    @property
    def shared_entities(self) -> tuple[str, ...]:
        """Of a scorer the entities whose events others score too, of which it knows the risk."""
        if self.shard.role != "scorer" or self.shard.count == 1:
            return ()
        own = self.own_entities
        found = (f.entity for f in self.features if f.type == "risk" and f.entity not in own)
        return tuple(dict.fromkeys(found))

    @property
    def trains(self) -> tuple[str, ...]:
        """Members whose models a process beside this one trains; it sends them by ``control``."""
        own = self.shard.role != "scorer"
        return tuple(m.name for m in self.members if own and m.type == TRAINED)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Topics that are read."""
        names = self.topics
        if self.shard.role == "learner":
            return names.control, self.examples_topic
        models = (self.models_topic,) if self.shard.role == "scorer" else ()
        risk = (self.risk_topic,) if self.shared_entities else ()
        routes = (self.routes_topic,) if self.routed else ()
        return names.control, *models, *risk, *routes, names.events, names.labels

    @property
    def outputs(self) -> tuple[str, ...]:
        """Topics that steps write to, but for the journal's."""
        names = self.topics
        found = [names.dead_letters, names.audit]
        if self.shard.role != "learner":
            found.insert(0, names.scores)
        if names.witness is not None:
            found.append(names.witness)
        return (*found, *self.handed_topics)

    @property
    def handed_topics(self) -> tuple[str, ...]:
        """Where steps hand over what other processes of the service take."""
        if self.shard.role == "scorer":
            risk = (self.risk_topic,) if self.shared_entities else ()
            return self.examples_topic, *risk, *((self.routes_topic,) if self.routed else ())
        return (self.models_topic,) if self.shard.role == "learner" else ()

    @property
    def step_records(self) -> int:
        """Records in one step at most; each of a learner's holds many examples."""
        batch = self.limits.batch
        return max(1, batch // 64) if self.shard.role == "learner" else batch

    def reads(self, topic: str, partition: int) -> bool:
        """Whether this process is the one that reads the partition of an input."""
        names, shard = self.topics, self.shard
        if shard.role == "scorer" and topic == self.risk_topic:
            return partition != shard.index
        if shard.role == "scorer" and topic == self.routes_topic:
            return partition == shard.index
        if shard.role != "scorer" or topic not in (names.events, names.labels):
            return True
        return partition % shard.count == shard.index

    def in_json(self) -> Config:
        """The same with events and labels in JSON: what files and tables hold."""
        plain = {
            key: part.model_copy(update={"format": "json"})
            for key, part in (("event", self.event), ("label", self.label))
        }
        return self.model_copy(update=plain)

    def task(self) -> Task:
        """What the target is."""
        label = self.label
        return self.target.task(label.values, label.at_horizon, self.ensemble.threshold)

    @property
    def member_type(self) -> TaskType:
        """What members learn: of a ranking whether what is shown is taken."""
        return "binary" if self.target.type == "ranking" else self.target.type

    def member_task(self) -> Task:
        """The target that members learn."""
        return Binary(alert_at=math.inf) if self.target.type == "ranking" else self.task()

    @property
    def row_fields(self) -> dict[str, FieldSettings]:
        """Of a ranking, the fields of requests, items and users that members see."""
        if self.reco is None or not self.members:
            return {}
        own = _of_rows(dict.fromkeys(self.reco.members.names, True))
        return {name: field for name, field in self.event.fields.items() if name not in own}

    @property
    def learners(self) -> tuple[str, ...]:
        """Names of what learns, as commands and the auditor know it."""
        first = () if self.reco is None else self.reco.learners
        return (*first, *(m.name for m in self.members))

    @property
    def journal_topic(self) -> str:
        """The journal's topic: ``topics.journal``, or ``journal-NAME``."""
        return self.topics.journal or f"journal-{self.name}"

    @property
    def label_event_id(self) -> str:
        """The label's field that names its event."""
        return self.label.event_id or self.event.id

    @property
    def label_time_format(self) -> TimeFormat:
        """How labels write their time."""
        return self.label.time_format or self.event.time_format
