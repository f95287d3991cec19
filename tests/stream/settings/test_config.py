"""The configuration: every mistake at once, each with its path, what was got and expected."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream.run.assemble import room
from stream.settings.load import ConfigError, foreign, load, overlay, parse
from stream.settings.shape import written
from stream.settings.upgrade import journaled, recorded
from tests.support.factory import raw_config


def problems(raw: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(raw, "test")
    return caught.value.problems


def put(raw: Any, path: str, value: object) -> None:
    """Set what stands at ``path``; ``None`` takes it away."""
    *parents, last = path.split(".")
    node = raw
    for part in parents:
        node = node[int(part)] if part.isdigit() else node[part]
    if value is None:
        del node[last]
    else:
        node[last] = value


def test_a_good_configuration_survives_a_round_trip(tmp_path: Path) -> None:
    """What checkpoints carry gives back the very same configuration."""
    config = parse(raw_config(tmp_path), "test")
    assert recorded(journaled(config), "here") == config


def test_all_mistakes_are_reported_together(tmp_path: Path) -> None:
    """Seven different mistakes give seven lines, each naming its path."""
    raw = raw_config(tmp_path)
    raw["label"]["horizon"] = "30 days"
    raw["ensemble"] = {"threshold": 3}
    raw["log"]["pth"] = "x"
    raw["features"][0]["field"] = "amuont"
    raw["members"].append({"name": "linear", "type": "logistic"})
    raw["members"].append({"name": "other", "type": "forrest"})
    raw["http"]["host"] = "0.0.0.0"
    found = problems(raw)
    for expected in (
        "label.horizon: expected a duration",
        "ensemble.threshold: expected",
        "log.pth: unknown key; did you mean 'path'?",
        "features[0]: expected a number field of event.fields (amount), got 'amuont'",
        "members[2].name: expected a name of its own, got 'linear' again",
        "members[3].type: expected one of",
        "http.host: expected a loopback address, got '0.0.0.0'",
    ):
        assert any(p.startswith(expected) for p in found), (expected, found)
    assert len(found) == 7


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"limits.record_bytes": 0, "limits.pending": 5},
            ["limits.pending: expected at least limits.batch", "limits.record_bytes: expected"],
        ),
        (
            {"features.0.type": "nmbr", "features.2.entity": "amount"},
            ["features[0].type: expected one of", "features[2]: expected an entity field"],
        ),
        (
            {"features.1.buckets": 0, "features.0.name": "category"},
            ["features[1].buckets: expected", "features[1].name: expected a name of its own"],
        ),
        (
            {"members.0.learn_every": 0, "members.1.name": "linear", "members.1.probability": 2},
            [
                "members[0].learn_every: expected",
                "members[1].name: expected a name of its own",
                "members[1].probability: expected",
            ],
        ),
        ({"event.fields.amount": "nunber"}, ["event.fields.amount.kind: expected"]),
        ({"limits.batch": "many", "limits.pending": 5}, ["limits.batch: expected"]),
        ({"features.2.windows": ["1 day"]}, ["features[2].windows[0]: expected a duration"]),
        (
            {"topics.labels": 5, "topics.audit": "journal-test"},
            ["topics.journal: expected a name of its own", "topics.labels: expected text"],
        ),
    ],
)
def test_checks_run_on_what_is_valid(
    tmp_path: Path, changes: dict[str, Any], expected: list[str]
) -> None:
    """A mistake hides no other, and what it leaves open counts as no second one."""
    raw = raw_config(tmp_path) | {"limits": {}, "topics": {}}
    for path, value in changes.items():
        put(raw, path, value)
    found = sorted(problems(raw))
    assert len(found) == len(expected)
    assert all(p.startswith(e) for p, e in zip(found, expected, strict=True)), found


NAMES = [
    *("embedded", "kafka", "number", "category", "calendar", "window", "risk", "boolean", "text"),
    *("[key]", "fields", "function-before[_event_field()]", "0", "a b", "quo'ted", "naïve"),
]
"""Names that a message could take for something else."""


@given(data=st.data())
def test_paths_are_right_whatever_names_are_chosen(data: st.DataObject) -> None:
    """One mistake somewhere among such names is one line with that very path."""
    names = data.draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
    name, key = data.draw(st.sampled_from(names)), data.draw(st.sampled_from(NAMES))
    raw = raw_config(Path("unused"))
    fields = raw["event"]["fields"]
    fields |= dict.fromkeys([n for n in names if n not in fields], "text")
    raw["features"] = [f for f in raw["features"] if f["type"] != "category"]
    raw["label"]["values"] = dict.fromkeys(names, 1)
    i = data.draw(st.integers(0, 2))
    field: tuple[str | int, ...] = ("event", "fields", name)
    place, value, below = data.draw(
        st.sampled_from(
            [
                (field, "nunber", ("kind",)),
                (field, {"kind": 5}, ("kind",)),
                (field, {}, ("kind",)),
                (field, {"kind": "text", "required": []}, ("required",)),
                (field, {"kind": "text", key: 1}, (key,)),
                (field, 5, ()),
                (("label", "values", name), 2, ()),
                (("audit",), {"member": {"linear": {key: 1}}}, ("member", "linear", key)),
                (("audit",), {"member": {"linear": {"bytes": 5}}}, ("member", "linear", "bytes")),
                (("log", key), 1, ()),
                (("features", i, key), 1, ()),
                (("features", i, "name"), "9", ()),
                (("members", i % 2, key), 1, ()),
                ((key,), 1, ()),
            ]
        )
    )
    node: Any = raw
    for part in place[:-1]:
        node = node[part]
    node[place[-1]] = value
    (found,) = problems(raw)
    assert found.startswith(f"{written((*place, *below))}: "), found


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ((), "the file"),
        (("features", 2, "windows", 0), "features[2].windows[0]"),
        (("event", "fields", "a.b", "kind"), 'event.fields."a.b".kind'),
        (("a-b_1", 'say "x"'), 'a-b_1."say \\"x\\""'),
    ],
)
def test_places_are_written_as_toml_has_them(place: tuple[str | int, ...], text: str) -> None:
    """Keys that are no bare keys stand in quotes."""
    assert written(place) == text


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("seed", -1, "seed: expected"),
        ("name", "9 lives", "name: "),
        ("limits.batch", 0, "limits.batch: expected"),
        ("limits.batch", "many", "limits.batch: expected"),
        ("event.fields.amount", "nunber", "event.fields.amount.kind: expected 'number'"),
        ("event.fields", {}, "event.fields: "),
        ("features.2.windows", [], "features[2].windows: "),
        ("features.2.windows", ["1 day"], "features[2].windows[0]: expected a duration"),
        ("features.2.entity", "amount", "features[2]: expected an entity field"),
        ("features.2.value", None, "features[2].value: expected a number field"),
        ("features.2.windows", ["0d"], "features[2].windows: expected different lengths above 0"),
        ("features.2.windows", ["1d", "24h"], "features[2].windows: expected different lengths"),
        ("features.1.bukets", 3, "features[1].bukets: unknown key; did you mean 'buckets'?"),
        ("members.1.probability", 1.5, "members[1].probability: expected"),
        ("members.1.probabilty", 0.5, "members[1].probabilty: unknown key; did you mean"),
        ("log.type", "kafak", "log.type: expected one of 'embedded', 'kafka', got 'kafak'"),
        ("topics.labels", "events", "topics.labels: expected a name of its own"),
        ("topcis", {}, "topcis: unknown key; did you mean 'topics'?"),
        ("audit", {"member": {"lineer": {}}}, "audit.member.lineer: expected a member's name"),
        ("audit", {"each": {"bytes": {"limit": -1}}}, "audit.each.bytes.limit: expected"),
        ("audit", {"expected_events": ["creatd"]}, "audit.expected_events[0]: expected"),
        ("audit", {"member": {"9 lives": {}}}, 'audit.member."9 lives": expected'),
        ("features.0.name", "customer_count_7d", "features[2]: expected columns of its own, got"),
        ("features.2.stats", ["count", "count"], "features[2]: expected columns of its own, got"),
        ("event.time", "id", "event.time: expected a JSON field of its own, got 'id', which event"),
        ("event.fields.amount", {"kind": "number", "path": "id"}, "event.fields.amount: expected"),
        ("event.time_format", "iso", "event.time_format: expected one of 's', 'ms'"),
        ("event.time_format", "%H:%M", "event.time_format: expected one of 's', 'ms'"),
        ("event.time_format", "%d.%m.%Y %Z", "event.time_format: expected one of 's', 'ms'"),
        ("event.time_format", "%d.%m.%Y", "event.time_zone: expected a time zone for '%d.%m.%Y'"),
        ("event.time_zone", "Europe/Berlin", "event.time_zone: expected none, got 'Europe/Berlin'"),
        ("event.time_zone", "Europe/Pari", "event.time_zone: expected a time zone such as"),
        ("label.field", "id", "label.field: expected a JSON field of its own, got 'id', which lab"),
        ("label.values", {}, "label.values: expected to have at least 1 item, got {}"),
        ("label", 5, "label: expected a table, got 5"),
        ("features", {}, "features: expected a list, got {}"),
        ("log.type", None, "log.type: expected one of 'embedded', 'kafka', got none"),
        ("name", 5, "name: expected text, got 5"),
        ("state_dir", 5, "state_dir: expected a path, got 5"),
        ("http.tokens", [{"name": "a", "sha256": "x", "scopes": []}], "http.tokens[0].sha256"),
    ],
)
def test_each_mistake_names_its_path(
    tmp_path: Path, path: str, value: object, expected: str
) -> None:
    """One changed value gives a message that begins with its path."""
    raw = raw_config(tmp_path)
    raw.setdefault("limits", {})
    raw.setdefault("topics", {})
    put(raw, path, value)
    assert any(p.startswith(expected) for p in problems(raw)), problems(raw)


def test_the_environment_lies_over_the_file(tmp_path: Path) -> None:
    """MILLRACE_A__B sets a.b, list items by index; values are TOML where they can be."""
    file = tmp_path / "c.toml"
    file.write_text(
        'name = "a"\n[log]\ntype = "embedded"\n[event.fields]\namount = "number"\n'
        '[[features]]\nname = "amount"\ntype = "number"\nfield = "amount"\n'
        '[[members]]\nname = "m"\ntype = "constant"\n'
    )
    environ = {
        "MILLRACE_LOG__PATH": "/elsewhere/log.db",
        "MILLRACE_SEED": "42",
        "MILLRACE_MEMBERS__0__PROBABILITY": "0.25",
        "MILLRACE_FAILPOINT": "step.before=kill",
        "OTHER": "x",
    }
    config = load(file, environ)
    assert str(config.log.path) == "/elsewhere/log.db"  # type: ignore[union-attr]
    assert config.seed == 42
    assert config.members[0].params == {"probability": 0.25}


def test_a_wrong_environment_variable_is_named(tmp_path: Path) -> None:
    """An index that does not exist is an error that names the variable."""
    file = tmp_path / "c.toml"
    file.write_text('[log]\ntype = "embedded"\n')
    with pytest.raises(ConfigError, match="MILLRACE_MEMBERS__3__NAME"):
        load(file, {"MILLRACE_MEMBERS__3__NAME": "x"})


def test_foreign_variables_are_told_and_not_used(tmp_path: Path) -> None:
    """What Kubernetes injects for a service of our name harms nothing; nor does what is our own."""
    links = {
        "MILLRACE_PORT": "tcp://10.0.0.1:8080",
        "MILLRACE_PORT_8080_TCP_ADDR": "10.0.0.1",
        "MILLRACE_SERVICE_HOST": "10.0.0.1",
        "MILLRACE_LOG_SERVICE_PORT": "8080",
        "MILLRACE_A__B_PORT": "1",
    }
    own = {"MILLRACE_CACHE": "/cache", "MILLRACE_TOKEN_SHA256": "ab", "MILLRACE_SEED": "7"}
    assert foreign(links | own | {"OTHER": "x"}) == sorted(links)
    raw = raw_config(tmp_path)
    assert overlay(raw, links | own) == raw | {"seed": 7}


def test_a_misspelt_setting_is_an_error(tmp_path: Path) -> None:
    """A variable that names a part of the configuration is never taken for somebody else's."""
    raw = overlay(raw_config(tmp_path), {"MILLRACE_LOG__PTH": "x"})
    assert problems(raw) == ["log.pth: unknown key; did you mean 'path'?"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MILLRACE_HTTP__TOKENS__0__SHA256", "271828182845"),
        ("MILLRACE_HTTP__TOKENS__0__SHA256", "the token itself 271828"),
        ("MILLRACE_HTTP__TOKENS__0", "271828182845"),
        ("MILLRACE_HTTP__TOKENS", "271828182845"),
        ("MILLRACE_HTTP__TOKENS", '[["271828"]]'),
        ("MILLRACE_LOG__SASL_PASSWORD__X", "271828182845"),
        ("MILLRACE_LOG", "271828182845"),
        ("MILLRACE_LOG", '{type = "kfka", sasl_password = 271828}'),
        ("MILLRACE_LOG", '{sasl_password = "271828"}'),
        ("MILLRACE_LOG", '{type = "kafka", bootstrap = "x", sasl_password = 271828}'),
    ],
)
def test_what_may_be_a_secret_is_never_shown(tmp_path: Path, key: str, value: str) -> None:
    """Wherever a password, a token or its hash was put by mistake, no message quotes it."""
    token = {"name": "a", "sha256": "0" * 64, "scopes": ["score"]}
    raw = raw_config(tmp_path) | {"http": {"tokens": [token]}}
    found = problems(overlay(raw, {key: value}))
    assert "271828" not in str(found)
    assert found


def test_passwords_come_from_the_environment_only(tmp_path: Path) -> None:
    """A password in the file is refused; one from the environment is never printed or saved."""
    raw = raw_config(tmp_path)
    file = tmp_path / "c.toml"
    file.write_text(
        '[log]\ntype = "kafka"\nbootstrap = "h:1"\nsasl_password = "hunter2"\n'
        '[event.fields]\namount = "number"\n'
        '[[features]]\nname = "amount"\ntype = "number"\nfield = "amount"\n'
        '[[members]]\nname = "m"\ntype = "constant"\n'
    )
    with pytest.raises(ConfigError, match="MILLRACE_LOG__SASL_PASSWORD") as caught:
        load(file, {})
    assert "hunter2" not in str(caught.value)
    raw["log"] = {"type": "kafka", "bootstrap": "h:1", "sasl_password": "hunter2"}
    config = parse(raw, "test")
    assert "hunter2" not in repr(config)
    assert "hunter2" not in str(journaled(config))


@pytest.mark.parametrize("key", ["password", "token"])
def test_secrets_of_the_registry_come_from_the_environment_only(tmp_path: Path, key: str) -> None:
    """Refused in a file, whole in the environment, nowhere in what is journaled."""
    file = tmp_path / "c.toml"
    whole = (
        '[log]\ntype = "embedded"\n[event.fields]\namount = "number"\n'
        '[[features]]\nname = "amount"\ntype = "number"\nfield = "amount"\n'
        '[[members]]\nname = "m"\ntype = "constant"\n[registry]\nurl = "http://h:1"\n'
    )
    file.write_text(whole)
    config = load(file, {f"MILLRACE_REGISTRY__{key.upper()}": "12345"})
    secret = getattr(config.registry, key)
    assert secret.get_secret_value() == "12345"
    assert "12345" not in repr(config) + str(journaled(config))
    file.write_text(f'{whole}{key} = "hunter2"\n')
    with pytest.raises(ConfigError, match=f"MILLRACE_REGISTRY__{key.upper()}") as caught:
        load(file, {})
    assert "hunter2" not in str(caught.value)


def test_sasl_needs_its_settings(tmp_path: Path) -> None:
    """SASL without mechanism, user or password is three problems."""
    raw = raw_config(tmp_path)
    raw["log"] = {"type": "kafka", "bootstrap": "h:1", "security_protocol": "SASL_SSL"}
    assert len(problems(raw)) == 3


EMPTY = hashlib.sha256(b"").hexdigest()
ONE = hashlib.sha256(b"a token").hexdigest()


@pytest.mark.parametrize(
    ("hashes", "expected"),
    [
        ([EMPTY], "http.tokens[0].sha256: expected the SHA-256 of a token, got that of an empty"),
        ([ONE, ONE], "http.tokens[1].sha256: expected a hash of its own, got that of http.tokens["),
    ],
)
def test_a_hash_is_that_of_one_token(tmp_path: Path, hashes: list[str], expected: str) -> None:
    """Nothing opens the door by saying nothing, and no token has the rights of two."""
    raw = raw_config(tmp_path)
    raw["http"]["tokens"] = [
        {"name": f"t{i}", "sha256": sha256, "scopes": ["score"]} for i, sha256 in enumerate(hashes)
    ]
    [found] = problems(raw)
    assert found.startswith(expected)
    assert not any(sha256 in found for sha256 in hashes)


def test_oauth_needs_one_source_of_tokens(tmp_path: Path) -> None:
    """A command needs nothing more, a provider's address who asks; both or none are refused."""
    raw = raw_config(tmp_path)
    sasl = {"security_protocol": "SASL_SSL", "sasl_mechanism": "OAUTHBEARER"}
    raw["log"] = {"type": "kafka", "bootstrap": "h:1"} | sasl
    command, url = {"sasl_oauth_command": ["token"]}, {"sasl_oauth_url": "https://id/token"}
    (problem,) = problems(raw)
    assert "expects one of sasl_oauth_command and sasl_oauth_url, got none" in problem
    log = raw["log"]
    parse(raw | {"log": log | command}, "test")
    raw["log"] = log | url
    assert [p.split(":")[0] for p in problems(raw)] == ["log.sasl_username", "log.sasl_password"]
    raw["log"] = log | url | command | {"sasl_username": "me", "sasl_password": "secret"}
    (problem,) = problems(raw)
    assert problem.endswith("got both")


@pytest.mark.parametrize(
    ("pending", "events"), [(5000, 5000), ("1MB", 10_000), ("1.5 GB", 15_000_000), ("2kB", 4096)]
)
def test_events_that_wait_are_bounded_by_number_or_by_disk(
    tmp_path: Path, pending: object, events: int
) -> None:
    """At 100 bytes an event; a step's events always have room."""
    assert room(parse(raw_config(tmp_path, limits={"pending": pending}), "test"), 100) == events


@pytest.mark.parametrize("pending", [0, "many", "20 gigs", 1.5, True, "-1GB"])
def test_a_bound_that_is_none_is_refused(tmp_path: Path, pending: object) -> None:
    """What can be written is said."""
    (problem,) = problems(raw_config(tmp_path, limits={"pending": pending}))
    assert problem.startswith("limits.pending: expected a ")
    assert '"20GB"' in problem


def test_no_operation_outlives_its_transaction(tmp_path: Path) -> None:
    """The broker would abort a step that the service still tries to commit."""
    raw = raw_config(tmp_path)
    raw["log"] = {"type": "kafka", "bootstrap": "h:1", "transaction_timeout": "20s"}
    (problem,) = problems(raw)
    assert problem.startswith("log.timeout: expected at most log.transaction_timeout = 20000 ms")


@pytest.mark.parametrize("password", ["12345", "true", "1e5", "[a]", '"quoted"', ""])
def test_a_password_may_look_like_anything(tmp_path: Path, password: str) -> None:
    """What the environment holds is the password, also where it would be TOML."""
    raw = raw_config(tmp_path) | {"log": {"type": "kafka", "bootstrap": "h:1"}}
    config = parse(overlay(raw, {"MILLRACE_LOG__SASL_PASSWORD": password}), "test")
    assert config.log.sasl_password.get_secret_value() == password  # type: ignore[union-attr]


def test_a_wrong_password_is_not_shown(tmp_path: Path) -> None:
    """Not even in the message that says what is wrong with it."""
    raw = raw_config(tmp_path)
    raw["log"] = {"type": "kafka", "bootstrap": "h:1", "sasl_password": 271828}
    assert problems(raw) == ["log.sasl_password: expected text"]


def test_every_part_of_the_configuration_can_be_wrong_at_once(tmp_path: Path) -> None:
    """With nothing valid the checks say nothing, and no part is a traceback."""
    raw = dict.fromkeys(raw_config(tmp_path), 5) | {"members": [5], "features": [5]}
    found = problems(raw)
    assert {p.partition(":")[0] for p in found} == {
        *(raw.keys() - {"members", "features", "seed"}),
        *("members[0]", "features[0]"),
    }


def test_a_file_that_is_not_toml(tmp_path: Path) -> None:
    """The parser's message has the line; a missing file is named."""
    file = tmp_path / "c.toml"
    file.write_text("a = \n")
    with pytest.raises(ConfigError, match="line 1"):
        load(file, {})
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "none.toml", {})
