"""A replica of a service on a real broker: it reads topics and leaves nothing there."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from kafka.admin import KafkaAdminClient

from stream.contract.records import NewRecord
from stream.run.front import Front
from tests.stream.run.replica.beside import equal, following
from tests.stream.run.test_service import feed
from tests.support.factory import config, event, to_json
from tests.support.log_harness import kafka_table
from tests.support.runner import append, caught_up, running
from tests.support.waiting import DEADLINE_S

pytestmark = pytest.mark.kafka


def test_it_follows_a_journal_in_a_topic(tmp_path: Path, kafka_bootstrap: str) -> None:
    """From the first step and from a checkpoint, over a restart of the service; no offset of the
    shard's group is another one for it."""
    name = f"t{uuid.uuid4().hex[:8]}"
    topics = {
        t: f"{name}-{t}" for t in ("events", "labels", "control", "scores", "dead_letters", "audit")
    }
    c = config(tmp_path, name=name, log=kafka_table(kafka_bootstrap), topics=topics)
    admin = KafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    append(c, *((topics[topic], values) for topic, values in feed(100)))
    with following(c, tmp_path / "one") as (whole, _):
        with running(c) as service:
            caught_up(service, 200)
            equal(whole, service)
        append(c, *((topics[topic], values) for topic, values in feed(100, 100)))
        with running(c) as service, following(c, tmp_path / "two") as (later, front):
            own = Front(service)
            caught_up(service, 400)
            equal(whole, service)
            equal(later, service)
            committed = admin.list_group_offsets({name: None})
            assert later.recovered is not None
            assert later.recovered.loaded is not None
            asked = [NewRecord(None, to_json(event(900)))]
            [said], [told] = own.what_if(asked, DEADLINE_S), front.what_if(asked, DEADLINE_S)
            assert isinstance(said, dict)
            assert isinstance(told, dict)
            assert {**said, "scored_at": 0} == {**told, "scored_at": 0}
            assert admin.list_group_offsets({name: None}) == committed
    admin.close()
