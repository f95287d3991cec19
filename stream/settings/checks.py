"""What no key shows alone: checks across the keys of a valid configuration.

Each gets a configuration with all its defaults. Of one that is not valid it gets what is
(:func:`stream.settings.shape.partly`), and ends where it meets what is not. The first paragraph of
each docstring stands in the reference.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec

from pydantic import ValidationError

from models.ensemble.combine import COMBINERS, combiner
from models.members.catalogue import UnknownMember, member_class
from models.settings import column_names, feature_fields
from stream.settings.paths import place
from stream.settings.problems import lines
from stream.settings.schema import (
    SCHEMA_TYPES,
    TIME_FORMATS,
    Config,
    KafkaLogSettings,
    process,
)
from stream.settings.shape import Place, written


def check(config: Config, whole: bool) -> Iterator[str]:
    """Every problem, as ``path: expected ..., got ...``; ``whole``: nothing of it is missing."""
    for each in CHECKS:
        try:
            yield from each(config)
        # What is not whole lacks attributes, or has some that contradict one another.
        except (AttributeError, ValueError):
            if whole:
                raise


def _some(config: Config) -> Iterator[str]:
    """There are features and members; where items are ranked both or none, and all in JSON."""
    ranking = config.target.type == "ranking"
    for key, other in (("features", "members"), ("members", "features")):
        if not getattr(config, key) and (not ranking or getattr(config, other)):
            beside = f" beside {other}" if ranking else ""
            yield f"{key}: expected at least one{beside}, got none"
    for key in ("event", "scores") if ranking else ():
        got = getattr(config, key).format
        if got != "json":
            yield f"{key}.format: expected 'json' for records of a ranking, got {got!r}"
    for name, field in config.row_fields.items():
        if field.path is not None:
            key = written(("event", "fields", name, "path"))
            yield f"{key}: expected none, since fields of a ranking have names, got {field.path!r}"
    if config.reco is not None and not ranking:
        yield f"reco: expected target.type = 'ranking' beside it, got {config.target.type!r}"


def _feature_names(config: Config) -> Iterator[str]:
    """Names of features are distinct."""
    names = [(f"features[{i}].name", f.name) for i, f in enumerate(config.features)]
    yield from _used_once(names, "a name of its own, got {!r} again, as {}")


def _column_names(config: Config) -> Iterator[str]:
    """Columns of features have distinct names: `card_count_7d` is made by one feature alone."""
    columns: list[tuple[str, str]] = []
    seen: set[str] = set()
    for i, feature in enumerate(config.features):
        if feature.name not in seen:  # else it is the feature's own name that comes again
            columns += [(f"features[{i}]", column) for column in column_names(feature)]
        seen.add(feature.name)
    yield from _used_once(
        columns, "columns of its own, got {!r}, which {} makes; rename it or take the window out"
    )


def _member_names(config: Config) -> Iterator[str]:
    """Names of members are distinct, and none is `ensemble`; `[reco]` has names of its own."""
    names = [(f"members[{i}].name", m.name) for i, m in enumerate(config.members)]
    yield from _used_once(names, "a name of its own, got {!r} again, as {}")
    first = () if config.reco is None else (*config.reco.learners, *config.reco.members.names)
    for i, member in enumerate(config.members):
        if member.name == "ensemble":
            yield f"members[{i}].name: expected another name, got 'ensemble', which all of them are"
        if member.name in first:
            yield f"members[{i}].name: expected another name, got {member.name!r}, one of [reco]'s"


def _member_features(config: Config) -> Iterator[str]:
    """What a member sees are features."""
    names = [feature.name for feature in config.features]
    for i, member in enumerate(config.members):
        for name in member.features or ():
            if name not in names:
                known = ", ".join(names)
                yield f"members[{i}].features: expected names of features ({known}), got {name!r}"


def _feature_fields(config: Config) -> Iterator[str]:
    """A feature's `field`, `entity` and `value` are fields of `event.fields` and of the right kind.

    Booleans are numbers.
    """
    kinds = {n: "number" if f.kind == "boolean" else f.kind for n, f in config.event.fields.items()}
    for i, feature in enumerate(config.features):
        for field, kind in feature_fields(feature):
            if kinds.get(field) != kind:
                got = f"{field!r}, a {kinds[field]} field" if field in kinds else repr(field)
                known = ", ".join(k for k, v in kinds.items() if v == kind) or "none"
                article = "an" if kind == "entity" else "a"
                yield (
                    f"features[{i}]: expected {article} {kind} field of event.fields ({known}), "
                    f"got {got}"
                )


def members(config: Config) -> Iterator[str]:
    """A member's `type` is known, and its other keys are parameters of that type."""
    for i, member in enumerate(config.members):
        try:
            params = member_class(member.type, config.member_type).Params
            params.model_validate(member.params)
        except UnknownMember as error:
            yield f"members[{i}].type: {error}"
        except ValidationError as error:
            yield from lines(error, params, ("members", i))


def _json_fields(config: Config) -> Iterator[str]:
    """No two parts of an event's schema read the same JSON value, nor two of a label's.

    Nor does one read a value inside another's, nor one object as an array.
    """
    event, label = config.event, config.label
    of_event = [("event.id", place(event.id)), ("event.time", place(event.time))]
    if label.inline:
        of_event.append(("label.field", place(label.field)))
    of_event += [(written(("event", "fields", n)), event.place(n)) for n in event.fields]
    of_label = [("label.event_id", place(config.label_event_id))]
    of_label.append(("label.field", place(label.field)))
    if label.time is not None:
        of_label.append(("label.time", place(label.time)))
    of_label.append(("label.corrects", place(label.corrects)))
    for fields in (of_event, of_label):
        for i, (key, one) in enumerate(fields):
            for other_key, other in fields[:i]:
                if problem := _collision(one, other):
                    got = written(one)
                    yield f"{key}: expected a JSON {problem}, got {got!r}, which {other_key} reads"
                    break


def _collision(one: Place, other: Place) -> str | None:
    """What is wrong with two places that are both read."""
    if one == other:
        return "field of its own"
    n = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    if n is None:
        return "field outside of another's"
    if isinstance(one[n], int) != isinstance(other[n], int):
        return "object or an array, not both"
    return None


def _formats(config: Config) -> Iterator[str]:
    """Formats with schemas need `[registry]` and the extra `millrace[formats]`.

    A CloudEvent has attributes that no field reads: `unknown_fields = "reject"` would refuse all.
    """
    for key in ("event", "label", "scores"):
        got, key = getattr(config, key).format, f"{key}.format"
        if got in SCHEMA_TYPES and config.registry is None:
            yield f"{key}: expected the registry of its schemas in [registry], got none; {got!r}"
        if got in SCHEMA_TYPES and find_spec("fastavro") is None:
            yield f"{key}: {got!r} needs more packages: pip install 'millrace[formats]'"
    if config.event.format == "cloudevents" and config.event.unknown_fields == "reject":
        yield "event.unknown_fields: expected 'ignore', got 'reject'; event.format = 'cloudevents'"


def _time_zones(config: Config) -> Iterator[str]:
    """A time's pattern without `%z` has a `time_zone`; nothing else has one."""
    event = config.event
    needed = event.time_format not in TIME_FORMATS and "%z" not in event.time_format
    if needed and event.time_zone is None:
        yield (
            f"event.time_zone: expected a time zone for {event.time_format!r}, got none; "
            'where it writes UTC, "UTC"'
        )
    if not needed and event.time_zone is not None:
        yield (
            f"event.time_zone: expected none, got {event.time_zone!r}; "
            f"{event.time_format!r} says itself which moment it means"
        )


def _topics(config: Config) -> Iterator[str]:
    """No two topics have the same name."""
    names = {k: v for k, v in config.topics if isinstance(v, str)}
    names |= {"journal": config.journal_topic}
    topics = [(f"topics.{key}", name) for key, name in names.items()]
    if config.shard.role != "all":  # what its processes hand to one another, whoever this one is
        between = (config.examples_topic, config.models_topic, *config.told_topics)
        topics = [("shard.service", name) for name in between] + topics
    yield from _used_once(topics, "a name of its own, got {!r}, as {}")


def _used_once(pairs: Iterable[tuple[str, str]], expected: str) -> Iterator[str]:
    """A line for each ``(key, value)`` whose value an earlier key has."""
    first: dict[str, str] = {}
    for key, value in pairs:
        if value in first:
            yield f"{key}: expected {expected.format(value, first[value])}"
        first.setdefault(value, key)


def _listening(config: Config) -> Iterator[str]:
    """`http.host` other than loopback needs `http.tokens`."""
    host = config.http.host
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if not (loopback or config.http.tokens):
        yield (
            f"http.host: expected a loopback address, got {host!r}; "
            "to listen elsewhere configure http.tokens"
        )


def _tokens(config: Config) -> Iterator[str]:
    """No two tokens have the same hash: who has one of them would have the rights of both."""
    first: dict[str, str] = {}
    for i, token in enumerate(config.http.tokens):
        key = f"http.tokens[{i}].sha256"
        other = first.setdefault(token.sha256, key)
        if other != key:
            yield f"{key}: expected a hash of its own, got that of {other}"


def _limits(config: Config) -> Iterator[str]:
    """`limits.pending` is at least `limits.batch`, where it is a number."""
    batch, pending = config.limits.batch, config.limits.pending
    if isinstance(pending, int) and pending < batch:
        yield f"limits.pending: expected at least limits.batch = {batch}, got {pending}"


def _sasl(config: Config) -> Iterator[str]:
    """SASL needs its mechanism, and what that asks for: user name and password, or a token."""
    log = config.log
    if not isinstance(log, KafkaLogSettings) or not log.security_protocol.startswith("SASL"):
        return
    needed = ["sasl_mechanism"]
    if log.sasl_mechanism != "OAUTHBEARER" or log.sasl_oauth_url:
        needed += ["sasl_username", "sasl_password"]
    for key in needed:
        if not getattr(log, key):
            yield f"log.{key}: expected a value, got none; {log.security_protocol} needs it"
    sources = bool(log.sasl_oauth_command) + bool(log.sasl_oauth_url)
    if log.sasl_mechanism == "OAUTHBEARER" and sources != 1:
        yield (
            "log.sasl_mechanism: OAUTHBEARER expects one of sasl_oauth_command and sasl_oauth_url,"
            f" got {'both' if sources else 'none'}"
        )


def _deadlines(config: Config) -> Iterator[str]:
    """No operation on Kafka outlives a transaction: `timeout` is at most `transaction_timeout`."""
    log = config.log
    if isinstance(log, KafkaLogSettings) and log.timeout > log.transaction_timeout:
        yield (
            f"log.timeout: expected at most log.transaction_timeout = {log.transaction_timeout} ms,"
            f" got {log.timeout} ms; the broker would abort what is still being tried"
        )


def _budgets(config: Config) -> Iterator[str]:
    """A member in `audit.member` exists."""
    names = config.learners
    for name in config.audit.member:
        if name not in names:
            known = ", ".join(names)
            yield f"audit.member.{name}: expected a member's name ({known}), got {name!r}"


def _drift(config: Config) -> Iterator[str]:
    """`drift.on_alarm` can do what it says: a combiner without parameters has nothing to forget.

    What puts candidates in order has no challengers: lists would have to be scored twice.
    """
    drift, combine = config.drift, config.ensemble.combine
    if drift.on_alarm == "challenge" and config.reco is not None:
        yield (
            "drift.on_alarm: expected none, weights or reset where items are ranked, got "
            "'challenge'"
        )
    if config.guard.on_worse != "none" and config.reco is not None:
        yield (
            f"guard.on_worse: expected none where items are ranked, got {config.guard.on_worse!r}"
        )
    if any(config.target.problems(config.label.values, config.label.at_horizon)):
        return
    if config.member_type not in COMBINERS[combine] or (config.reco and not config.members):
        return
    task = config.member_task()
    if drift.on_alarm == "weights" and not combiner(combine, 1, 0, task).parameters():
        yield (
            "drift.on_alarm: expected another reaction, got 'weights'; ensemble.combine = "
            f"{combine!r} has no weights to forget"
        )


def _target(config: Config) -> Iterator[str]:
    """`label.values`, `label.decimal`, `label.at_horizon` and `ensemble.combine` are of the target.

    Windows of risk need a truth that is one: yes, or the class of `target.alert`.
    """
    if (lacking := config.target.no_risk) is not None:
        for i, feature in enumerate(config.features):
            if feature.type == "risk":
                yield f"features[{i}].type: expected {lacking} for 'risk', whose share it counts"
    yield from config.target.problems(config.label.values, config.label.at_horizon)
    if (decimal := config.label.decimal) is not None and config.target.type != "number":
        yield f"label.decimal: expected none for a target of {config.target.type}, got {decimal!r}"
    combine, task = config.ensemble.combine, config.member_type
    if task not in COMBINERS[combine]:
        known = ", ".join(name for name, tasks in COMBINERS.items() if task in tasks)
        yield f"ensemble.combine: expected one of {known} for {task}, got {combine!r}"


def _corrected(config: Config) -> Iterator[str]:
    """`label.learning = "corrected"` has silence to correct: `at_horizon` is `"negative"`."""
    if config.label.learning != "corrected":
        return
    late = config.target.kind.late_positives
    if not late or config.label.at_horizon == "drop":
        got = "'drop'" if late else f"a target of {config.target.type}"
        yield (
            f"label.at_horizon: expected 'negative', got {got}; label.learning = 'corrected' learns"
            " positives that come late from silence"
        )


def _reasons(config: Config) -> Iterator[str]:
    """`[reasons]` are of a score that is one link, and name what there is."""
    reasons = config.reasons
    if reasons is None:
        return
    if config.target.type != "binary":
        yield f"reasons: expected target.type = 'binary' beside them, got {config.target.type!r}"
    if config.ensemble.combine in ("majority_vote", "boosting"):
        yield (
            "reasons: expected an ensemble.combine that moves with what members say, got "
            f"{config.ensemble.combine!r}, which counts votes"
        )
    if reasons.tell != "asked" and config.scores.format not in ("json", "cloudevents"):
        yield (
            "reasons.tell: expected 'asked' where scores have a schema, which has no place for"
            f" them, got {reasons.tell!r} with scores.format = {config.scores.format!r}"
        )
    features = [f.name for f in config.features]
    grouped = [(f"reasons.groups.{g}", f) for g, of in reasons.groups.items() for f in of]
    yield from _used_once(grouped, "a feature in one group, got {!r} again, as {}")
    for key, name in grouped:
        if name not in features:
            yield f"{key}: expected features' names ({', '.join(features)}), got {name!r}"
    inside = {name for _, name in grouped}
    known = [*reasons.groups, *(f for f in features if f not in inside), *config.learners]
    for name in reasons.texts:
        if name not in known:
            yield f"reasons.texts.{name}: expected one of {', '.join(known)}, got {name!r}"
    members = {m.name for m in config.members}
    for name in known[: len(known) - len(config.learners)]:
        if name in members:
            yield f"reasons: expected other names than the members', got {name!r}"


def _shard(config: Config) -> Iterator[str]:
    """One of many processes has a place among them, Kafka, and nothing that it would do in part.

    A scorer sees the events of its partitions alone: windows are of `shard.entity`. The guard and
    classes that enter by their labels are for `role = "all"`.
    """
    shard, topics = config.shard, config.topics
    if shard.role == "all":
        for key in ("index", "count", "entity", "labels", "service"):
            if (got := getattr(shard, key)) != type(shard).model_fields[key].default:
                yield (
                    f"shard.{key}: expected shard.role = 'scorer' or 'learner' beside {got!r}, got"
                    " 'all'; MILLRACE_SHARD__ROLE tells each process its own"
                )
        return
    if shard.index >= shard.count:
        yield f"shard.index: expected less than shard.count = {shard.count}, got {shard.index}"
    if topics.partitions < shard.count:
        yield (
            f"topics.partitions: expected at least shard.count = {shard.count}, one for each "
            f"scorer, got {topics.partitions}"
        )
    if config.name != f"{shard.service}-{process(shard.role, shard.index)}":
        yield f"shard.service: expected none, it is set by itself, got {shard.service!r}"
    yield from _shard_log(config)
    yield from _shard_entities(config)
    worse = config.guard.on_worse
    most = getattr(config.target, "max_classes", None)
    ranks = config.reco is not None
    for key, got, refused in (
        ("target.max_classes", most, most is not None),
        ("shard.labels", shard.labels, ranks and shard.labels != "partition"),
        ("shard.entity", shard.entity, ranks and shard.entity not in (None, "user")),
        ("guard.on_worse", worse, worse != "none"),
    ):
        if refused:
            yield f"{key}: expected shard.role = 'all' beside {got!r}, got {shard.role!r}"


def _shard_log(config: Config) -> Iterator[str]:
    log = config.log
    if not isinstance(log, KafkaLogSettings):
        yield f"log.type: expected 'kafka' beside shard.role, got {log.type!r}"
        return
    if log.delivery != "exactly_once":
        yield f"log.delivery: expected 'exactly_once' beside shard.role, got {log.delivery!r}"
    for key, got in (
        ("log.transactional_id", log.transactional_id),
        ("topics.journal", config.topics.journal),
    ):
        if got is not None:
            yield f"{key}: expected none, since each process has its own, got {got!r}"


def _shard_entities(config: Config) -> Iterator[str]:
    entities = [name for name, field in config.event.fields.items() if field.kind == "entity"]
    entity, own = config.entity, config.own_entities
    whose = " or ".join(map(repr, own))
    if config.shard.entity is not None and entity not in entities:
        known = ", ".join(entities) or "none"
        yield f"shard.entity: expected an entity field of event.fields ({known}), got {entity!r}"
    for i, feature in enumerate(config.features):
        if feature.type == "number":
            field = config.event.fields[feature.field]
            if feature.scale != "none":
                yield f"features[{i}].scale: expected 'none', got {feature.scale!r}: {_ALONE}"
            # Of an item or a user a record tells what it likes, whatever is required.
            missing = not field.required or config.reco is not None
            if missing and field.default is None:
                yield (
                    f"event.fields.{feature.field}.default: expected a number, got none: where it "
                    f"is missing the mean stands in, and {_ALONE}"
                )
        if feature.type == "window" and feature.entity not in own:
            yield (
                f"features[{i}].entity: expected {whose}, by which events are spread over "
                f"scorers (shard.entity), got {feature.entity!r}: {_ALONE}, and a window that "
                "reaches up to the event cannot wait for the others. Take `type = 'risk'`, whose "
                "windows end a delay ago, or leave it out"
            )
        if feature.type == "risk" and feature.entity not in own and feature.delay == 0:
            yield (
                f"features[{i}].delay: expected more than 0 of an entity other than {whose}, "
                "by which events are spread over scorers: what they tell each other takes time"
            )


_ALONE = "each scorer would count the events of its own partitions alone"


CHECKS: tuple[Callable[[Config], Iterator[str]], ...] = (
    _some,
    _feature_names,
    _column_names,
    _member_names,
    _member_features,
    _feature_fields,
    members,
    _json_fields,
    _formats,
    _time_zones,
    _topics,
    _listening,
    _tokens,
    _limits,
    _sasl,
    _deadlines,
    _budgets,
    _drift,
    _target,
    _corrected,
    _reasons,
    _shard,
)
