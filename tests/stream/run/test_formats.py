"""The daemon on topics whose records name a schema: a registry beside it, away, back, gone."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from rich.console import Console

from models.base import MillraceError
from stream.contract.schemas import RegistryUnavailable
from stream.run.registry import SCHEMA_BYTES, HttpRegistry
from stream.run.service import Service
from stream.settings.schema import Config, RegistrySettings
from stream.tools.evaluate import evaluate_file
from stream.tools.past.backfill import backfill
from stream.tools.past.warm import warm
from stream.tools.replay import replay_to
from tests.stream.logs.log_file import cut
from tests.stream.logs.secured import make_authority, make_signed
from tests.support.factory import config, event, label, raw_config, to_json
from tests.support.runner import append, caught_up, contents, running
from tests.support.schemas.registry import FakeRegistry, registry
from tests.support.waiting import wait_until

CONTEXT = SerializationContext("events", MessageField.VALUE)


@pytest.fixture
def fake() -> Iterator[FakeRegistry]:
    with registry() as listening:
        yield listening


def schema(name: str = "Payment") -> str:
    kinds = {"id": "string", "time": "long", "amount": "double", "customer": "string"}
    kinds |= {"terminal": "string", "category": "string"}
    fields = [{"name": n, "type": kind} for n, kind in kinds.items()]
    return json.dumps({"type": "record", "name": name, "fields": fields})


def avro(fake: FakeRegistry, n: int, first: int = 0, name: str = "Payment") -> list[bytes]:
    """Events in Avro, by a schema of that name."""
    write = AvroSerializer(
        SchemaRegistryClient({"url": fake.url}),
        schema(name),
        conf={"subject.name.strategy": lambda context, record: record},
    )
    return [write(event(i), CONTEXT) for i in range(first, first + n)]


def in_avro(fake: FakeRegistry, directory: Path, **changes: Any) -> Config:
    raw = raw_config(directory, **changes)
    settings = {"url": fake.url, "timeout": "1s"}
    return config(directory, event=raw["event"] | {"format": "avro"}, registry=settings, **changes)


def labels(n: int) -> tuple[str, list[Any]]:
    return "labels", [label(i) for i in range(n)]


def scored(c: Config) -> list[Any]:
    """What scores say of their events, whatever step they were made in."""
    return [
        {k: v for k, v in json.loads(value or b"").items() if k not in ("scored_at", "seq")}
        for value in contents(c, "scores")
    ]


def test_avro_is_scored_as_json_is(tmp_path: Path, fake: FakeRegistry) -> None:
    """The same scores from the same events, by two schemas in turn, each asked for once."""
    c, plain = in_avro(fake, tmp_path / "avro"), config(tmp_path / "json")
    append(c, ("events", avro(fake, 100) + avro(fake, 100, 100, "Other")), labels(50))
    append(plain, ("events", [event(i) for i in range(200)]), labels(50))
    fake.asked.clear()
    for each in (c, plain):
        with running(each) as service:
            caught_up(service, 250)
    assert scored(c) == scored(plain)
    assert len(scored(c)) == 200
    assert fake.asked == ["/schemas/ids/1", "/schemas/ids/2"]


def last_seq(c: Config) -> int:
    rows = [json.loads(value or b"") for value in contents(c, c.journal_topic)]
    return int(rows[-1]["seq"])


def test_a_replay_needs_no_registry(tmp_path: Path, fake: FakeRegistry) -> None:
    """Nor does a restart: schemas stand in the journal and in the checkpoint."""
    c = in_avro(fake, tmp_path)
    append(c, ("events", avro(fake, 60)), labels(30))
    with running(c) as service:
        caught_up(service, 90)
    fake.away = True
    append(c, ("events", avro_by(fake, 60, 60)))
    fake.asked.clear()
    with running(c) as service:
        caught_up(service, 150)
    replayed = replay_to(c, last_seq(c), None, from_start=True)
    assert replayed["digest"] == replayed["journal_digest"]
    borrowed = replay_to(c, last_seq(c), None, from_start=False)
    assert borrowed["state_digest"] == replayed["state_digest"]
    assert fake.asked == []


def avro_by(fake: FakeRegistry, n: int, first: int) -> list[bytes]:
    """Events by the schema that the registry has, which is away."""
    fake.away = False
    made = avro(fake, n, first)
    fake.away = True
    return made


def test_a_registry_that_is_away_holds_the_loop(tmp_path: Path, fake: FakeRegistry) -> None:
    """Not ready, with its address and answer; once it is back all is scored, each event once."""
    c = in_avro(fake, tmp_path)
    append(c, ("events", avro_by(fake, 40, 0)))
    service = Service(c)
    thread = threading.Thread(target=service.run)
    thread.start()
    try:
        wait_until(lambda: fake.url in service.health.ready()[1], "the registry's trouble")
        assert service.health.ready() == (
            False,
            f'registry {fake.url}/schemas/ids/1: 503 {{"error_code": 50302, "message": "away"}}',
        )
        assert contents(c, "scores") == []
        fake.away = False
        caught_up(service, 40)
        wait_until(lambda: service.health.ready()[0], "readiness")
    finally:
        service.stop()
        thread.join()
    assert [row["id"] for row in scored(c)] == [f"e{i}" for i in range(40)]


def test_a_stop_does_not_wait_for_the_registry(tmp_path: Path, fake: FakeRegistry) -> None:
    """What could not be read is read after the next start."""
    c = in_avro(fake, tmp_path)
    append(c, ("events", avro_by(fake, 40, 0)))
    service = Service(c)
    thread = threading.Thread(target=service.run)
    thread.start()
    wait_until(lambda: fake.url in service.health.ready()[1], "the registry's trouble")
    service.stop()
    thread.join()
    fake.away = False
    with running(c) as again:
        caught_up(again, 40)
    assert len(scored(c)) == 40


def test_a_number_that_the_registry_does_not_have_is_a_dead_letter(
    tmp_path: Path, fake: FakeRegistry
) -> None:
    """It is asked for once a while; what stands around it is scored."""
    c = in_avro(fake, tmp_path)
    forged = b"\0\0\0\x03\xe7" + b"x" * 30
    append(c, ("events", [forged, *avro(fake, 20), forged]))
    fake.asked.clear()
    with running(c) as service:
        caught_up(service, 22)
    assert len(scored(c)) == 20
    assert contents(c, "dead-letters") == [forged, forged]
    assert fake.asked.count("/schemas/ids/999") == 1


def test_a_changed_configuration_keeps_the_schemas(tmp_path: Path, fake: FakeRegistry) -> None:
    """The engine that takes over reads what the other read."""
    c = in_avro(fake, tmp_path)
    append(c, ("events", avro(fake, 20)))
    with running(c) as service:
        caught_up(service, 20)
    changed = in_avro(fake, tmp_path, ensemble={"threshold": 0.7})
    append(changed, ("events", avro_by(fake, 20, 20)))
    with running(changed) as service:
        caught_up(service, 40)
    assert len(scored(changed)) == 40
    replayed = replay_to(changed, last_seq(changed), None, from_start=True)
    assert replayed["digest"] == replayed["journal_digest"]


def test_files_are_json_whatever_the_topics_hold(tmp_path: Path, fake: FakeRegistry) -> None:
    """`evaluate` reads them; `warm` would write them to the topics, and refuses."""
    c = in_avro(fake, tmp_path)
    rows = [event(i) | {"fraud": label(i)["fraud"]} for i in range(30)]
    data = tmp_path / "past.jsonl"
    data.write_bytes(b"\n".join(map(to_json, rows)))
    summary = evaluate_file(c, data, None, None, 10, Console(quiet=True))
    assert (summary["scores"], summary["dead_letters"]) == (30, 0)
    with pytest.raises(MillraceError, match="warm: expected event"):
        warm(c, data, None, None, 10, Console(quiet=True))


def test_a_new_member_learns_from_records_that_name_schemas(
    tmp_path: Path, fake: FakeRegistry
) -> None:
    """By the schemas in the journal, nobody is asked; where it may lack some, it is refused."""
    c = in_avro(fake, tmp_path)
    append(c, ("events", avro(fake, 60) + avro(fake, 40, 60, "Other")), labels(50))
    with running(c) as s:
        caught_up(s, 150)
    more = [*raw_config(tmp_path)["members"], {"name": "crossed", "type": "crossed"}]
    new = in_avro(fake, tmp_path, members=more)
    fake.asked.clear()
    found = backfill(new, None, Console(quiet=True))
    assert (found["scored"], found["labels_joined"]) == (100, 50)
    with running(new) as s:
        assert s.engine is not None
        assert s.engine.ensemble.members["crossed"].parameters()
        seq = s.engine.seq
    assert fake.asked == []
    replayed = replay_to(new, seq, None, from_start=True)
    assert replayed["digest"] == replayed["journal_digest"]
    cut(c.log.path, c.journal_topic, 1)
    third = in_avro(fake, tmp_path, members=[*more, {"name": "low", "type": "constant"}])
    expected = r"expected a journal from step 1 on.*got one from step 2"
    with pytest.raises(MillraceError, match=expected):
        backfill(third, None, Console(quiet=True))


def asking(fake: FakeRegistry, **settings: Any) -> HttpRegistry:
    return HttpRegistry(RegistrySettings(url=fake.url, **settings))


@pytest.mark.parametrize(
    ("settings", "header"),
    [
        ({"username": "me", "password": "12345"}, "Basic bWU6MTIzNDU="),
        ({"token": "abc"}, "Bearer abc"),
        ({}, ""),
    ],
)
def test_the_registry_is_told_who_asks(
    settings: dict[str, Any], header: str, fake: FakeRegistry
) -> None:
    """Basic authentication, a bearer token, or nothing."""
    number = fake.add("s", schema())
    assert asking(fake, **settings).schema(number) is not None
    assert fake.authorizations == {header}


def test_the_registry_is_who_its_certificate_says(tmp_path: Path) -> None:
    """By the authority of the settings alone; another one's is told and waited for."""
    known, other, own = (tmp_path / f"{name}.pem" for name in ("known", "other", "own"))
    make_signed(own, "localhost", *make_authority(known))
    make_authority(other)
    with registry(own) as fake:
        number = fake.add("s", schema())
        assert asking(fake, ssl_cafile=known).schema(number) is not None
        with pytest.raises(RegistryUnavailable, match="certificate verify failed"):
            asking(fake, ssl_cafile=other).schema(number)
        with pytest.raises(MillraceError, match=r"registry\.ssl_cafile: expected certificates"):
            asking(fake, ssl_cafile=tmp_path / "none.pem")


def test_schemas_that_refer_to_each_other_are_asked_for_once(fake: FakeRegistry) -> None:
    """No registry should have such; whoever reads by them refuses them."""
    to = {"name": "b", "subject": "b", "version": 1}, {"name": "a", "subject": "a", "version": 1}
    number = fake.add("a", "{}", "AVRO", [to[0]])
    fake.add("b", "{}", "AVRO", [to[1]])
    found = asking(fake).schema(number)
    assert found is not None
    assert [name for name, _ in found.references] == ["a", "b"]


def test_a_schema_that_no_journal_record_could_hold_is_not_there(fake: FakeRegistry) -> None:
    """One text, or all that it refers to together."""
    whole = fake.add("s", json.dumps({"doc": "x" * SCHEMA_BYTES}))
    half = json.dumps({"doc": "x" * (SCHEMA_BYTES // 2)})
    fake.add("part", half)
    refers = fake.add("t", half, "AVRO", [{"name": "a", "subject": "part", "version": 1}])
    registry = asking(fake)
    assert [registry.schema(n) for n in (whole, refers)] == [None, None]
    assert [registry.schema(n) for n in (whole, refers)] == [None, None]
    assert fake.asked.count(f"/schemas/ids/{whole}") == 1
