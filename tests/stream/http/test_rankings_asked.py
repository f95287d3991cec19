"""A shard that ranks, asked over HTTP in Metarank's words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from stream.run.front import Front
from stream.run.service import Service
from stream.settings.load import parse
from stream.settings.schema import Config
from tests.support.runner import running
from tests.support.waiting import DEADLINE_S, PATIENT, wait_until

JACKETS = [
    {
        "event": "item",
        "id": "81f46c34-a4bb-469c-8708-f8127cd67d27",
        "item": "jacket",
        "timestamp": "1699391467000",
        "fields": [
            {"name": "title", "value": "Nice jacket"},
            {"name": "price", "value": 50.5},
            {"name": "categories", "value": ["clothes", "winter"]},
        ],
    },
    {
        "event": "user",
        "id": "7884fa1d-4a8a-4b3c-a5bb-5fe3b1a2ee48",
        "user": "user1",
        "timestamp": "1699391467000",
        "fields": [{"name": "age", "value": 33}],
    },
    {
        "event": "ranking",
        "id": "81f46c34-a4bb-469c-8708-f8127cd67d28",
        "timestamp": "1699391467001",
        "user": "user1",
        "session": "session1",
        "fields": [{"name": "query", "value": "cat"}],
        "items": [
            {"id": "jacket", "fields": [{"name": "relevancy", "value": 2.0}]},
            {"id": "socks", "fields": [{"name": "relevancy", "value": 1.0}]},
        ],
    },
    {
        "event": "interaction",
        "id": "0f4c0036-04fb-4409-b2c6-7163a59f6b7d",
        "ranking": "81f46c34-a4bb-469c-8708-f8127cd67d28",
        "timestamp": "1699391467002",
        "user": "user1",
        "session": "session1",
        "type": "purchase",
        "item": "socks",
        "fields": [{"name": "count", "value": 1}],
    },
]
"""One of each of Metarank's events, with fields that mean nothing here."""


def config(directory: Path) -> Config:
    """Of a shop."""
    return parse(
        {
            "name": "shop",
            "state_dir": str(directory / "state"),
            "log": {"type": "embedded", "path": str(directory / "log.db"), "timeout": PATIENT},
            "target": {"type": "ranking"},
            "http": {"port": 0, "score_timeout": PATIENT},
        },
        "test",
    )


@contextmanager
def shop(directory: Path, of: Config | None = None) -> Iterator[tuple[httpx.Client, Service]]:
    """A service and a client of it."""
    with running(of or config(directory)) as service:
        front = Front(service)
        front.start()
        try:
            assert front.server is not None
            url = f"http://127.0.0.1:{front.server.port}"
            with httpx.Client(base_url=url, timeout=DEADLINE_S) as client:
                yield client, service
        finally:
            front.stop()


def ids(answer: httpx.Response) -> list[str]:
    """The items of an answer."""
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return [place["item"] for place in body["items"]]


def test_metaranks_events_and_requests_are_taken(tmp_path: Path) -> None:
    """Its events teach; its requests are answered in its shape, and the same after a restart."""
    asked = {
        "id": "q1",
        "timestamp": "1699391468000",
        "user": "user2",
        "fields": [{"name": "query", "value": "jacket"}],
        "items": [{"id": "jacket"}, {"id": "socks"}],
    }
    with shop(tmp_path) as (client, service):
        assert client.post("/feedback", json=JACKETS).status_code == 202
        answer = client.post("/rank/shop", json=asked)
        assert ids(answer) == ["socks", "jacket"]
        assert answer.json()["took"] >= 0
        assert service.engine is not None
        assert service.engine.counts["hits"] == 1
        assert service.engine.counts["dead.schema"] == 0
        again = client.post("/rank/shop", json=asked)
        assert again.status_code == 422  # answered before: the id is the list's
        first = client.get("/v1/scores/q1").json()
    with shop(tmp_path) as (client, _):
        explained = client.post("/recommend/shop?explain=true", json={"user": "user2", "count": 1})
        assert ids(explained) == ["socks"]
        assert set(explained.json()["items"][0]["features"]) >= {"popular", "cooccurrence"}
        like = {"items": [{"id": "socks"}], "seen": "decay"}
        similar = client.post("/recommend/shop", json=like)
        assert ids(similar) == []
        assert similar.json()["fallback"] is False
        assert first["items"][0]["id"] == "socks"


def test_a_request_without_a_moment_does_not_end_a_stream_of_the_past(tmp_path: Path) -> None:
    """Of events of years ago it asks at the newest one's: nothing has expired, no time passes."""
    past = config(tmp_path)
    past = past.model_copy(update={"reco": past.reco.model_copy(update={"item_ttl": 86_400_000})})
    with shop(tmp_path, past) as (client, service):
        assert client.post("/feedback", json=JACKETS).status_code == 202
        asked = {"timestamp": "1699391468000", "items": [{"id": "jacket"}, {"id": "socks"}]}
        assert len(ids(client.post("/rank/shop", json=asked))) == 2
        assert service.engine is not None
        newest = service.engine.watermark_ms
        series = 'millrace_last_event_timestamp_seconds{model="shop"} '
        wait_until(
            lambda: (
                float(client.get("/metrics").text.split(series)[1].split("\n")[0]) * 1000 == newest
            ),
            "the newest event to be told",
        )
        assert len(ids(client.post("/recommend/shop", json={"count": 5}))) > 0
        assert service.engine.watermark_ms == newest


REFUSED: list[tuple[str, Any, int]] = [
    ("/recommend/shop", [], 422),
    ("/recommend/shop", {"count": 0}, 422),
    ("/rank/shop", {"user": "u"}, 422),
    ("/rank/other", {"items": [{"id": "a"}]}, 404),
    ("/feedback", {"event": "purchase", "timestamp": 1}, 422),
    ("/feedback", {"event": "interaction", "timestamp": "soon", "item": "a"}, 422),
]


def test_a_kind_that_nobody_knows_is_told_which_there_are(tmp_path: Path) -> None:
    """Of a record the kinds, of a label that interactions take its place; nothing is appended."""
    with shop(tmp_path) as (client, _):
        for wrong in ({"event": "purchase"}, {}):
            record = {k: v for k, v in JACKETS[3].items() if k != "event"} | wrong
            (error,) = client.post("/feedback", json=record).json()["errors"]
            assert error["advice"].startswith("write one of item, user, ranking, interaction, ")
        answer = client.post("/v1/labels", json={"id": "e1", "label": True})
        assert answer.status_code == 404
        assert "/feedback" in answer.json()["detail"]


def test_seconds_for_milliseconds_are_told(tmp_path: Path) -> None:
    """They can be meant, so they are taken; who sent them reads how they were read."""
    with shop(tmp_path) as (client, _):
        seconds = [JACKETS[3] | {"timestamp": "1699391467"}]
        answer = client.post("/feedback", json=seconds)
        assert answer.status_code == 202
        (note,) = answer.json()["notes"]
        assert "1970-01-20T16:03:11.467Z" in note
        assert "event.time_format = 'ms'" in note
        assert "notes" not in client.post("/feedback", json=JACKETS).json()


def test_what_is_no_request_is_refused(tmp_path: Path) -> None:
    """As a problem; nothing is appended."""
    with shop(tmp_path) as (client, service):
        for path, body, status in REFUSED:
            refused = client.post(path, json=body)
            assert refused.status_code == status, (path, body, refused.text)
            assert refused.headers["content-type"] == "application/problem+json"
        event = {"event": "interaction", "item": "socks", "timestamp": "2023-11-08"}
        [error] = client.post("/feedback", json=event).json()["errors"]
        assert (error["path"], error["got"]) == ("$.timestamp", '"2023-11-08"')
        assert 'time_format = "ms"' in error["advice"]
        number = {"user": "u", "items": [{"id": "socks"}, {"id": 5}]}
        [error] = client.post("/rank/shop", json=number).json()["errors"]
        assert (error["path"], error["got"]) == ("$.items[1].id", "5")
        assert error["advice"] == "write text, between quotes"
        assert sum(service.log.lag().values()) == 0
        assert service.engine is not None
        assert service.engine.counts["consumed.events"] == 0
