"""Ingest, scores, labels and commands over a real server and a backend in memory."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from stream.contract.log import LogUnavailable
from stream.decode.cloudevents import STRUCTURED
from stream.http.append import GroupAppender
from stream.http.ingest import Ingest
from stream.http.problem import Problem
from stream.settings.load import parse
from stream.settings.schema import TimeFormat
from tests.support.http_fake import RAW, REASONS, Running, config, event, problem, running, score_of
from tests.support.waiting import DEADLINE_S, wait_until

NDJSON = {"content-type": "application/x-ndjson"}
JSON = {"content-type": "application/json"}
CLOUDEVENTS = {
    "format": "cloudevents",
    "fields": {"amount": {"kind": "number", "path": "data.amount"}},
}


class TestEvents:
    def test_one_event_is_appended_as_it_came(self, fresh: Running) -> None:
        """The log holds the body's very bytes, keyed by the first entity field."""
        raw = json.dumps(event("p1", customer="c9"), indent=2).encode()
        answer = fresh.http.post("/v1/events", content=raw, headers=JSON)
        assert answer.status_code == 202
        body = answer.json()
        assert (body["topic"], body["count"]) == ("events", 1)
        (row,) = body["partitions"]
        record = fresh.backend.topics["events"][row["partition"]][row["first"]]
        assert (record.key, record.value) == (b"c9", raw)

    def test_a_cloud_event_is_appended_in_structured_mode(self) -> None:
        """As clients post it; the record says what it is."""
        whole = {"specversion": "1.0", "id": "p1", "source": "/shop", "type": "payment"}
        whole |= {"time": "2026-01-01T00:00:00Z", "data": {"amount": 1.0}}
        raw = RAW | {"event": CLOUDEVENTS, "features": RAW["features"]}
        ingest = Ingest(parse(raw, "test"))
        (record,) = ingest.events(json.dumps(whole).encode(), STRUCTURED).records
        assert record.headers == (("content-type", STRUCTURED.encode()),)
        with pytest.raises(Problem, match="1 record"):
            ingest.event(json.dumps(whole | {"source": 5}).encode())

    def test_topics_with_schemas_are_not_written_by_http(self) -> None:
        """Their consumers expect a serializer's bytes."""
        raw = RAW | {"registry": {"url": "http://x"}, "event": RAW["event"] | {"format": "avro"}}
        with pytest.raises(Problem, match="expected JSON on the topic, which holds avro"):
            Ingest(parse(raw, "test")).event(json.dumps(event()).encode())

    @pytest.mark.parametrize("form", ["array", "lines"])
    def test_a_batch_is_appended_in_order(self, fresh: Running, form: str) -> None:
        """An array or lines become one record each, and the answer counts them by partition."""
        events = [event(i, customer=f"c{i}") for i in range(20)]
        if form == "array":
            answer = fresh.http.post("/v1/events", json=events)
        else:
            lines = "\r\n".join(json.dumps(e) for e in events) + "\n\n"
            answer = fresh.http.post("/v1/events", content=lines, headers=NDJSON)
        body = answer.json()
        assert (answer.status_code, body["count"]) == (202, 20)
        for row in body["partitions"]:
            stored = fresh.backend.topics["events"][row["partition"]]
            assert row["count"] == len(stored) == row["last"] - row["first"] + 1
            ids = [json.loads(r.value or b"")["payment_id"] for r in stored]
            assert ids == sorted(ids)
        assert sum(row["count"] for row in body["partitions"]) == 20

    def test_a_large_batch_is_appended(self) -> None:
        """A body past the inline size, checked in a thread, arrives whole."""
        with running(config()) as it:
            answer = it.http.post("/v1/events", json=[event(i) for i in range(2000)])
            assert answer.json()["count"] == len(it.backend.values("events")) == 2000

    def test_one_bad_record_refuses_the_batch(self, fresh: Running) -> None:
        """The problem names the record, the path, what was expected and got; nothing is stored."""
        lines = [event(1), event(2, amount="much"), {"time": 5}]
        content = "\n".join(json.dumps(e) for e in lines)
        body = problem(fresh.http.post("/v1/events", content=content, headers=NDJSON), "invalid")
        amount, missing = body["errors"]
        assert (amount["path"], amount["error"]) == ("$[1].amount", "Expected `float`, got `str`")
        assert amount["got"] == '"much"'
        assert amount["advice"].startswith("write a number without currency")
        assert missing["path"] == "$[2]"
        assert missing["error"] == "Object missing required field `payment_id`"
        assert missing["advice"] == 'name the field: [event] id = "..."; the row has time'
        assert fresh.backend.appends == []

    def test_a_time_that_is_written_otherwise_is_explained(self, fresh: Running) -> None:
        """Of events and of labels: what was got, and what would be read."""
        for time, advice in (
            ("2026-01-01T00:00:00Z", 'write time_format = "rfc3339" under [event]'),
            ("yesterday", 'write it as 1767225600250 (time_format = "ms")'),
        ):
            answer = fresh.http.post("/v1/score", json=event(1, time=time))
            [error] = problem(answer, "invalid")["errors"]
            assert (error["path"], error["got"]) == ("$.time", f'"{time}"')
            told = "Expected a number or digits since 1970, as time_format says"
            assert error["error"] == told
            assert error["advice"] == advice
        answer = fresh.http.post("/v1/labels", json={"payment_id": "p1", "fraud": {}})
        [error] = problem(answer, "invalid")["errors"]
        assert error["advice"] == "write true, false, a whole number or text"

    @pytest.mark.parametrize(
        ("content", "kind"),
        [
            (b"", "malformed"),
            (b"  ", "malformed"),
            (b"{", "malformed"),
            (json.dumps(event()).encode() + b" 2", "malformed"),
            (b"[1, ", "malformed"),
            (b"NaN", "malformed"),
            (b"\xff\xfe{\x00}\x00", "malformed"),
            (b'{"other": ' + b"[" * 2000, "malformed"),
            (b"[" * 2000 + b"]" * 2000, "malformed"),
            (b"[]", "invalid"),
            (b"null", "invalid"),
            (b"[1]", "invalid"),
            (b'"text"', "invalid"),
            (json.dumps(event("")).encode(), "invalid"),
            (json.dumps(event("x" * 257)).encode(), "invalid"),
            (json.dumps(event(1.5)).encode(), "invalid"),  # type: ignore[arg-type]
            (json.dumps(event(None)).encode(), "invalid"),  # type: ignore[arg-type]
        ],
    )
    def test_what_can_never_be_scored_is_refused(
        self, shared: Running, content: bytes, kind: str
    ) -> None:
        """Not JSON is a 400, JSON that is no event a 422."""
        problem(shared.http.post("/v1/events", content=content, headers=JSON), kind)

    @pytest.mark.parametrize("time_format", ["s", "ms"])
    def test_a_time_beyond_all_bounds_is_refused(self, time_format: TimeFormat) -> None:
        """A date that no integer of milliseconds holds is one refused record, named by its path."""
        cfg = config()
        event_settings = cfg.event.model_copy(update={"time_format": time_format})
        ingest = Ingest(cfg.model_copy(update={"event": event_settings}))
        lines = "\n".join(
            json.dumps(e) for e in [event(1) | {"time": 5}, event(2) | {"time": 1e308}]
        )
        with pytest.raises(Problem) as caught:
            ingest.events(lines.encode(), NDJSON["content-type"])
        assert caught.value.kind == "invalid"
        assert [e["path"] for e in caught.value.members["errors"]] == ["$[1].time"]

    def test_a_record_over_its_limit_is_too_large(self, fresh: Running) -> None:
        """A body within its limit may still hold a record over limits.record_bytes."""
        answer = fresh.http.post("/v1/events", json=event(1, note="x" * 300_000))
        assert "limits.record_bytes" in problem(answer, "too-large")["errors"][0]["error"]

    def test_the_key_falls_back_to_the_id(self) -> None:
        """An event of a configuration without entity fields is keyed by its id."""
        bare = config()
        fields = {"amount": bare.event.fields["amount"]}
        bare = bare.model_copy(update={"event": bare.event.model_copy(update={"fields": fields})})
        with running(bare) as it:
            it.http.post("/v1/events", json={"payment_id": 77, "time": 5, "amount": 1})
            keys = [r.key for p in it.backend.topics["events"] for r in p]
        assert keys == [b"77"]


class TestScore:
    def test_the_committed_score_comes_back(self, shared: Running) -> None:
        """The body is the score's record as published."""
        answer = shared.http.post("/v1/score", json=event("s1"))
        assert (answer.status_code, answer.json()) == (200, score_of("s1"))
        assert shared.waiters.waiting == 0

    def test_an_integer_id_is_its_text(self, shared: Running) -> None:
        """The engine names ids by their text; so does the wait."""
        assert shared.http.post("/v1/score", json=event(12345)).status_code == 200

    def test_a_dead_letter_is_told_with_its_reason(self, fresh: Running) -> None:
        """What the engine refuses later comes back as a 422 that says why and where."""
        fresh.backend.refuse_repeats = True
        fresh.http.post("/v1/score", json=event("twice"))
        body = problem(fresh.http.post("/v1/score", json=event("twice")), "dead-lettered")
        assert body["reason"] == "duplicate_event"
        assert body["error"] == "expected a new id, got it again"
        assert (body["topic"], body["offset"]) == ("events", 1)

    def test_a_late_score_is_a_504_that_names_the_event(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The event stays in the log, and the problem says so."""
        with running(config(score_timeout="50ms")) as it:
            it.backend.scoring = False

            async def at_once(self: GroupAppender, *group: Any) -> list[tuple[int, int]]:
                return it.backend.append(*group)

            # On the event loop's own thread: however slow, it is done before the deadline passes.
            monkeypatch.setattr(GroupAppender, "append", at_once)
            body = problem(it.http.post("/v1/score", json=event("late")), "late")
            assert "in the log" in body["detail"]
            assert body["offset"] == 0
            assert len(it.backend.values("events")) == 1
            assert it.waiters.waiting == 0

    def test_a_slow_append_is_a_504_that_leaves_it_open(self) -> None:
        """Before the log answered nobody knows whether the event is in it."""
        with running(config(score_timeout="50ms")) as it:
            it.backend.open.clear()
            body = problem(it.http.post("/v1/score", json=event("slow")), "late")
            assert "not confirmed" in body["detail"]
            assert "offset" not in body

    def test_the_same_id_at_once_is_a_conflict(self, fresh: Running) -> None:
        """A second request for an id that is being scored appends nothing."""
        fresh.backend.open.clear()
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(fresh.http.post, "/v1/score", json=event("same"))
            wait_until(lambda: fresh.waiters.waiting == 1, "the first request")
            problem(fresh.http.post("/v1/score", json=event("same")), "being-scored")
            fresh.backend.open.set()
            assert first.result().status_code == 200
        assert len(fresh.backend.values("events")) == 1

    def test_more_than_max_waiting_is_a_503(self) -> None:
        """Above the bound the request is refused before its event is appended."""
        with running(config(max_waiting=1)) as it, ThreadPoolExecutor(1) as p:
            it.backend.open.clear()
            first = p.submit(it.http.post, "/v1/score", json=event("a"))
            wait_until(lambda: it.waiters.waiting == 1, "the first request")
            body = problem(it.http.post("/v1/score", json=event("b")), "overloaded")
            assert "http.max_waiting = 1" in body["detail"]
            it.backend.open.set()
            assert first.result().status_code == 200

    def test_an_array_is_not_one_event(self, shared: Running) -> None:
        """`/v1/score` takes a single object."""
        problem(shared.http.post("/v1/score", json=[event(1)]), "invalid")

    def test_requests_in_flight_share_appends(self, fresh: Running) -> None:
        """While one append is under way, the requests that arrive wait and go together."""
        fresh.backend.open.clear()
        with ThreadPoolExecutor(16) as pool:
            answers = [
                pool.submit(fresh.http.post, "/v1/score", json=event(f"g{i}")) for i in range(16)
            ]
            wait_until(lambda: fresh.waiters.waiting == 16, "all requests")
            fresh.backend.open.set()
            got = {a.result().json()["id"] for a in answers}
        assert got == {f"g{i}" for i in range(16)}
        # The first request's append, then all that waited, in few groups.
        assert sum(n for _, n in fresh.backend.appends) == 16
        assert len(fresh.backend.appends) <= 3

    def test_a_failed_append_fails_its_whole_group(self, fresh: Running) -> None:
        """Every request of a group hears that the log is away, and nobody waits on."""
        fresh.backend.open.clear()
        fresh.backend.failure = LogUnavailable("broker is away")
        with ThreadPoolExecutor(4) as pool:
            answers = [
                pool.submit(fresh.http.post, "/v1/score", json=event(f"f{i}")) for i in range(4)
            ]
            wait_until(lambda: fresh.waiters.waiting == 4, "all requests")
            fresh.backend.open.set()
            for answer in answers:
                problem(answer.result(), "log-unavailable")
        assert fresh.waiters.waiting == 0


class TestLabelsAndCommands:
    def test_labels_are_keyed_by_their_event(self, fresh: Running) -> None:
        """A label goes to its topic under the id of its event."""
        answer = fresh.http.post("/v1/labels", json=[{"payment_id": 7, "fraud": True}] * 2)
        assert (answer.status_code, answer.json()["count"]) == (202, 2)
        assert [r.key for p in fresh.backend.topics["labels"] for r in p] == [b"7", b"7"]

    @pytest.mark.parametrize(
        "label",
        [{"payment_id": 7}, {"fraud": 1}, {"payment_id": 7, "fraud": "maybe"}, {"fraud": None}],
    )
    def test_a_label_without_id_or_known_truth_is_refused(
        self, shared: Running, label: dict[str, Any]
    ) -> None:
        """Such a label could never be learned from."""
        problem(shared.http.post("/v1/labels", json=label), "invalid")

    @pytest.mark.parametrize(
        "command",
        [
            {"command": "freeze", "member": "flat"},
            {"command": "release", "member": "other"},
            {"command": "set_threshold", "threshold": 0.4},
            {"command": "checkpoint"},
        ],
    )
    def test_a_command_is_appended_with_its_actor(
        self, fresh: Running, command: dict[str, Any]
    ) -> None:
        """The record says who gave the command, whatever the body claims."""
        answer = fresh.http.post("/v1/control", json=command | {"actor": "the boss"})
        assert (answer.status_code, answer.json()["topic"]) == (202, "control")
        assert [json.loads(v) for v in fresh.backend.values("control")] == [
            command | {"actor": "http"}
        ]

    @pytest.mark.parametrize(
        ("command", "path"),
        [
            ({"command": "explode"}, "$.command"),
            ({"command": "freeze"}, "$"),
            ({"command": "freeze", "member": "nobody"}, "$.member"),
            ({"command": "set_threshold", "threshold": 1.0}, "$.threshold"),
            ([], "$"),
        ],
    )
    def test_a_wrong_command_is_refused(self, shared: Running, command: Any, path: str) -> None:
        """A command that no engine would follow never reaches the control topic."""
        body = problem(shared.http.post("/v1/control", json=command), "invalid")
        assert body["errors"][0]["path"] == path

    def test_a_command_that_is_not_json_is_malformed(self, shared: Running) -> None:
        """The same 400 as for events."""
        problem(shared.http.post("/v1/control", content="{", headers=JSON), "malformed")


def test_many_clients_get_their_own_scores(fresh: Running) -> None:
    """Hundreds of concurrent requests on several connections: each answer is the asker's."""

    def ask(worker: int) -> list[bool]:
        with httpx.Client(base_url=fresh.url, trust_env=False, timeout=DEADLINE_S) as http:
            return [
                http.post("/v1/score", json=event(f"{worker}-{i}")).json()["id"] == f"{worker}-{i}"
                for i in range(25)
            ]

    with ThreadPoolExecutor(8) as pool:
        assert all(ok for answers in pool.map(ask, range(8)) for ok in answers)
    assert len(fresh.backend.values("events")) == 200
    assert len(fresh.observed) == 200


class TestWhatIf:
    def test_an_event_is_answered_and_appended_nowhere(self, fresh: Running) -> None:
        """As a score, without a place in the log."""
        answer = fresh.http.post("/v1/what-if", json=event("p1"))
        assert answer.status_code == 200
        assert answer.json().keys() == score_of("p1").keys() - {"partition", "offset"} | {"digest"}
        assert fresh.backend.appends == []

    def test_what_would_become_a_dead_letter_is_told_why(self, fresh: Running) -> None:
        """With the reason, as a score's problem has it."""
        fresh.backend.refuse_repeats = True
        fresh.backend.seen.add("p1")
        body = problem(fresh.http.post("/v1/what-if", json=event("p1")), "unscorable")
        assert body["reason"] == "duplicate_event"
        problem(fresh.http.post("/v1/what-if", json={"payment_id": "p1"}), "invalid")

    def test_an_answer_that_takes_too_long_is_late(self, fresh: Running) -> None:
        """And says that nothing has changed."""
        fresh.backend.scoring = False
        body = problem(fresh.http.post("/v1/what-if", json=event()), "late")
        assert "nothing has changed" in body["detail"]

    def test_a_service_that_is_not_ready_answers_nothing(self, fresh: Running) -> None:
        """There is no state to ask yet."""
        fresh.backend.readiness = (False, "restoring")
        problem(fresh.http.post("/v1/what-if", json=event()), "not-ready")


class TestReasons:
    def test_an_event_is_told_why(self) -> None:
        """As told with its score, and as it would be now; of others there is nothing."""
        with running(parse(RAW | {"reasons": {}}, "test")) as it:
            assert it.http.post("/v1/score", json=event("p1")).status_code == 200
            body = it.http.get("/v1/reasons/p1").json()
            problem(it.http.get("/v1/reasons/nobody"), "not-found")
            routes = {route for route, *_ in it.observed}
        assert (body["id"], body["then"]) == ("p1", None)
        assert body["now"]["reasons"] == REASONS
        assert "/v1/reasons/{id}" in routes

    def test_a_service_without_reasons_says_so(self, fresh: Running) -> None:
        """And what to configure."""
        body = problem(fresh.http.get("/v1/reasons/p1"), "not-found")
        assert "[reasons]" in body["detail"]
