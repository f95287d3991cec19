"""The HTTP API: ingest, scores, labels, commands, and what a person or a probe wants to know.

Requests only append records to topics or read; nothing here changes a model: whatever changes state
comes in as a record. The other files of ``http/`` hold one layer each: edge, auth, body, ingest,
append, score, infer, live, problem; connections and server stand around them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, TypeVar

import anyio
import anyio.to_thread
import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, HTMLResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

import monitoring.show
from stream.contract.letters import DeadLetter
from stream.contract.log import DiskFull, LogUnavailable
from stream.contract.records import NewRecord, Record
from stream.decode.cloudevents import STRUCTURED
from stream.http.append import GroupAppender
from stream.http.auth import Tokens, is_loopback
from stream.http.body import JSON, NDJSON, Bodies
from stream.http.edge import CLIENT_GONE, Edge, Observe
from stream.http.infer import BINARY, SERVER, Inference
from stream.http.ingest import Accepted, Ingest
from stream.http.live.feed import Feed
from stream.http.live.recent import KEPT
from stream.http.openapi.document import document
from stream.http.problem import INFERENCE, Problem, from_http_exception
from stream.http.recommend import answer_of, record_of
from stream.http.score import DeadLettered, Scored, ScoreWaiters
from stream.settings.schema import Config

LIVE_PAGE = Path(next(iter(monitoring.show.__path__))) / "page"
TAIL_DEFAULT = 50
TAIL_MOST = 1000
ASKED = 16
"""What-ifs in progress at once; each waits in a thread for the end of the step under way."""
INLINE_BYTES = 16_384
"""Bodies up to this are checked on the event loop (1.4 µs a record), larger ones in a thread."""

T = TypeVar("T")


class Backend(Protocol):
    """What the API needs from the service.

    Obligations
    -----------
    * ``append`` is durable when it returns, all or nothing, callable from several threads; raises
      :class:`~stream.contract.log.LogUnavailable` (or ``DiskFull``) when it cannot be done now.
    * ``alive`` and ``ready`` return at once, from memory: they run on the server's event loop.
    * ``models``, ``parameters``, ``tail``, ``snapshot``, ``history`` and ``score`` may block; they
      are called from a worker thread, one call of them at a time. ``metrics`` likewise, but beside
      them.
    * ``what_if`` and ``why`` may block until their deadline; up to :data:`ASKED` calls at once.
    * Dictionaries are plain data that ``msgspec`` can write as JSON.

    Attributes
    ----------
    read_only : str
        Why no record is taken in, and who takes them; empty where they are.
    newest_ms : int
        The newest event time scored, as last told; 0 before the first.
    """

    read_only: str

    @property
    def newest_ms(self) -> int:
        """See above."""

    def append(self, topic: str, records: Sequence[NewRecord]) -> list[tuple[int, int]]:
        """Append durably; ``(partition, offset)`` of each record."""

    def alive(self) -> tuple[bool, str]:
        """Whether the loop moves, and a sentence."""

    def ready(self) -> tuple[bool, str]:
        """Whether the log is reachable and the state restored, and a sentence."""

    def telling(self) -> tuple[bool, str]:
        """Whether what is known may be told, ready or not, and a sentence; returns at once."""

    def metrics(self) -> bytes:
        """The Prometheus text exposition."""

    def models(self) -> dict[str, Any]:
        """Members, weights, states."""

    def parameters(self) -> dict[str, Any]:
        """Parameter tables by member."""

    def tail(self, topic: str, limit: int) -> list[Record]:
        """The newest ``limit`` records of a topic, oldest first."""

    def snapshot(self) -> dict[str, Any]:
        """What the live page shows, about once a second while somebody looks."""

    def history(self) -> dict[str, Any]:
        """What the live page gets once: the numbers of the last minutes."""

    def score(self, event_id: str) -> bytes | None:
        """The score record of an event, if it is among the newest."""

    def what_if(
        self, records: Sequence[NewRecord], timeout_s: float
    ) -> list[dict[str, Any] | DeadLetter]:
        """What the next step would say of each event by itself; changes nothing.

        Raises :class:`TimeoutError`, or a :class:`Problem` where the service stops.
        """

    def why(self, event_id: str, timeout_s: float) -> dict[str, Any] | None:
        """Why an event that waits for its label would have its score now; raises likewise."""


class Api:
    """The application of one service.

    Parameters
    ----------
    config : Config
    backend : Backend
    waiters : ScoreWaiters
        Shared with the loop that publishes to it.
    observe : callable
        ``(route template, method, code, seconds)``, called on the server's thread.
    requests : int
        Requests in progress at once, beside probes and scrapes.
    page : Path
        Directory of the live page; a plain page with links stands in when it has no index.html.
    """

    def __init__(
        self,
        config: Config,
        backend: Backend,
        waiters: ScoreWaiters,
        observe: Observe,
        requests: int,
        page: Path = LIVE_PAGE,
    ) -> None:
        self._config = config
        self._topics = config.topics
        self._timeout_s = config.http.score_timeout / 1000
        self._backend = backend
        self._waiters = waiters
        self._page = page
        self._charts = _plotly_script()
        self._tokens = Tokens(config.http.tokens)
        self._bodies = Bodies(config.http.max_body_bytes)
        self.follow(config)
        self._appender = GroupAppender(backend.append)
        self._feed = Feed(lambda: self._read(backend.snapshot), lambda: self._read(backend.history))
        self._reads = anyio.CapacityLimiter(1)
        self._scrapes = anyio.CapacityLimiter(1)
        self._asks = anyio.CapacityLimiter(ASKED)
        routes = self._routes()
        app = Starlette(routes=routes, exception_handlers=_HANDLERS)
        app.router.redirect_slashes = False
        self.app = Edge(
            app,
            [r.path for r in routes if isinstance(r, Route)],
            requests,
            is_loopback(config.http.host),
            observe,
        )

    def follow(self, config: Config) -> None:
        """Read requests by this configuration from here on (any thread).

        What routes, tokens and topics are made of stays what it is for the service's life.
        """
        self._ingest = Ingest(config)
        self._inference = Inference(config, lambda: self._backend.newest_ms)
        self._openapi = msgspec.json.encode(document(config, not self._backend.read_only))

    def _routes(self) -> list[BaseRoute]:
        get = ["GET"]
        routes: list[BaseRoute] = [
            *self._taking(),
            Route("/v1/what-if", self._what_if, methods=["POST"]),
            *self._inferences(),
            Route("/v1/scores/{id:path}", self._scored, methods=get),
            Route("/v1/reasons/{id:path}", self._reasons, methods=get),
            Route("/v1/models", self._models, methods=get),
            Route("/v1/parameters", self._parameters, methods=get),
            Route("/v1/audit", self._audit, methods=get),
            Route("/v1/dead-letters", self._dead_letters, methods=get),
            Route("/v1/live", self._live, methods=get),
            Route("/metrics", self._metrics, methods=get),
            Route("/livez", self._livez, methods=get),
            Route("/readyz", self._readyz, methods=get),
            Route("/openapi.json", self._document, methods=get),
            Route("/", self._root, methods=get),
        ]
        if (self._page / "index.html").is_file():
            routes.append(Route("/live/plotly.min.js", self._plotly, methods=get))
            routes.append(Mount("/live", StaticFiles(directory=self._page)))
        return routes

    def _taking(self) -> list[BaseRoute]:
        """What appends records; who ranks is asked in Metarank's words, too."""
        config = self._config
        taking = {
            "/v1/events": self._events,
            "/v1/score": self._score,
            "/v1/labels": self._labels,
            "/v1/control": self._control,
        }
        if config.reco is not None:
            taking |= {
                "/feedback": self._events,
                f"/rank/{config.service}": self._rank,
                f"/recommend/{config.service}": self._recommend,
            }
        refused = bool(self._backend.read_only)
        return [
            Route(path, self._refuse if refused else do, methods=["POST"])
            for path, do in taking.items()
        ]

    def _inferences(self) -> list[BaseRoute]:
        """What clients of the Open Inference Protocol ask; of shards that score events."""
        if self._config.reco is not None:
            return []
        model = f"{INFERENCE}/models/{self._config.name}"
        gets = {
            INFERENCE: self._server,
            f"{INFERENCE}/health/live": self._model_live,
            f"{INFERENCE}/health/ready": self._model_ready,
            f"{model}/ready": self._model_ready,
            model: self._model,
        }
        return [
            *(Route(path, do, methods=["GET"]) for path, do in gets.items()),
            Route(f"{model}/infer", self._infer, methods=["POST"]),
        ]

    def close(self) -> None:
        """End live streams and waits for scores (the event loop's thread)."""
        self._waiters.close()
        self._feed.stop()

    # --- in: records to topics

    async def _refuse(self, request: Request) -> Response:
        self._tokens.caller(request)
        raise self._read_only()

    def _read_only(self) -> Problem:
        return Problem("read-only", self._backend.read_only, {"Allow": ""})

    async def _events(self, request: Request) -> Response:
        self._tokens.caller(request, "score")
        return await self._append_many(request, self._topics.events, self._ingest.events)

    async def _labels(self, request: Request) -> Response:
        self._tokens.caller(request, "label")
        if self._config.reco is not None:
            raise Problem(
                "not-found",
                "a shard that ranks has no labels: interactions stand among the events, /feedback",
            )
        return await self._append_many(request, self._topics.labels, self._ingest.labels)

    async def _append_many(
        self, request: Request, topic: str, parse: Callable[[bytes, str], Accepted]
    ) -> Response:
        async with self._bodies.read(request, JSON, NDJSON, STRUCTURED) as (body, media):
            if len(body) <= INLINE_BYTES:
                accepted = parse(body, media)
            else:
                accepted = await anyio.to_thread.run_sync(parse, body, media)
            positions = await self._appender.append(topic, accepted.records)
        notes = {"notes": accepted.notes} if accepted.notes else {}
        return _json(_appended(topic, positions) | notes, 202)

    async def _control(self, request: Request) -> Response:
        actor = self._tokens.caller(request, "admin")
        async with self._bodies.read(request, JSON) as (body, _):
            record = self._ingest.command(body, actor)
        topic = self._topics.control
        return _json(_appended(topic, await self._appender.append(topic, [record])), 202)

    async def _score(self, request: Request) -> Response:
        """One event in, its committed score out."""
        self._tokens.caller(request, "score")
        async with self._bodies.read(request, JSON, STRUCTURED) as (body, _):
            event_id, record = self._ingest.event(body)
        return Response(await self._verdict(event_id, record), media_type=JSON)

    async def _what_if(self, request: Request) -> Response:
        """One event in, what its score would be out."""
        self._tokens.caller(request, "score")
        if self._config.reco is not None:
            raise Problem(
                "not-found", "target.type: expected one whose events are scored, got 'ranking'"
            )
        async with self._bodies.read(request, JSON, STRUCTURED) as (body, _):
            _, record = self._ingest.event(body)
        [answer] = await self._foretold([record])
        return _json(answer)

    async def _foretold(self, records: Sequence[NewRecord]) -> list[dict[str, Any]]:
        """What the scores of events that were checked would be, each by itself."""
        ask, timeout_s = self._backend.what_if, self._timeout_s
        found = await self._between_steps(lambda: ask(records, timeout_s))
        answers = []
        for answer in found:
            if isinstance(answer, DeadLetter):
                reason, text = answer.reason, answer.error
                raise Problem("unscorable", f"{reason}: {text}", reason=reason, error=text)
            answers.append(answer)
        return answers

    async def _between_steps(self, ask: Callable[[], T]) -> T:
        """What the backend answers between two steps."""
        _require("diverged", self._backend.telling())
        _require("not-ready", self._backend.ready())
        try:
            return await anyio.to_thread.run_sync(ask, limiter=self._asks)
        except TimeoutError as error:
            within = f"no answer within http.score_timeout = {self._timeout_s:g} s"
            raise Problem("late", f"{within}; nothing has changed") from error

    async def _rank(self, request: Request) -> Response:
        return await self._ranked(request, "rank")

    async def _recommend(self, request: Request) -> Response:
        return await self._ranked(request, "recommend")

    async def _ranked(self, request: Request, kind: str) -> Response:
        """A request in, its committed answer out."""
        self._tokens.caller(request, "score")
        started = time.monotonic()
        explain = request.query_params.get("explain") == "true"
        async with self._bodies.read(request, JSON) as (body, _):
            asked = record_of(self._config, kind, body, explain, self._backend.newest_ms)
            event_id, record = self._ingest.event(asked)
        payload = await self._verdict(event_id, record)
        return _json(answer_of(payload, 1000 * (time.monotonic() - started)))

    async def _verdict(self, event_id: str, record: NewRecord) -> bytes:
        """The committed score of an event that was checked.

        1. Expect the verdict, before the append, so that no commit can come too early. 2. Append.
        3. Wait, until one deadline for 2 and 3.
        """
        where: dict[str, Any] = {"topic": self._topics.events}
        with self._waiters.expect(event_id, record.value or b"") as verdict:
            try:
                async with asyncio.timeout(self._timeout_s):
                    [(partition, offset)] = await self._appender.append(where["topic"], [record])
                    where |= {"partition": partition, "offset": offset}
                    outcome = await verdict
            except TimeoutError as error:
                raise self._late(where) from error
        if isinstance(outcome, Scored):
            return outcome.payload
        if isinstance(outcome, DeadLettered):
            reason, text = outcome.reason, outcome.error
            raise Problem("dead-lettered", f"{reason}: {text}", reason=reason, error=text, **where)
        raise _stopping(where)

    def _late(self, where: dict[str, Any]) -> Problem:
        waited = f"no score within http.score_timeout = {self._timeout_s:g} s; "
        if "offset" in where:
            return Problem(
                "late", waited + "the event is in the log and will be scored, see topic "
                f"{self._topics.scores!r}; do not send it again", **where
            )  # fmt: skip
        return Problem(
            "late",
            waited + "the log has not confirmed the event yet and may still take it; sent again, "
            "it is recognised by its id",
            **where,
        )

    # --- the Open Inference Protocol

    async def _infer(self, request: Request) -> Response:
        """Events in, what their scores would be out; or one event in, its committed score out."""
        self._tokens.caller(request, "score")
        if BINARY in request.headers:
            raise Problem(
                "media-type",
                "expected tensors in JSON, got some in binary (Inference-Header-Content-Length): of"
                " Triton's client, set_data_from_numpy(..., binary_data=False)",
            )
        # Triton's client says no type. A foreign web page may leave it out too, but it cannot read
        # the answer, and nothing changes.
        async with self._bodies.read(request, JSON, "") as (body, media):
            asked, events = self._inference.asked(body)
            if asked.appends and self._backend.read_only:
                raise self._read_only()
            ids, records, _ = self._ingest.events(b"[%s]" % b",".join(events), JSON)
        if not asked.appends:
            answers = await self._foretold(records)
            return _json(self._inference.answer(asked, answers))
        if not media:
            raise Problem("media-type", f"expected Content-Type {JSON} where an event is appended")
        payload = await self._verdict(ids[0], records[0])
        return _json(self._inference.answer(asked, [msgspec.json.decode(payload)]))

    async def _server(self, request: Request) -> Response:
        self._tokens.caller(request)
        return _json(SERVER)

    async def _model(self, request: Request) -> Response:
        self._tokens.caller(request)
        return _json(self._inference.metadata())

    async def _model_live(self, request: Request) -> Response:
        _require("not-live", self._backend.alive())
        return _json({"live": True})

    async def _model_ready(self, request: Request) -> Response:
        _require("not-ready", self._backend.ready())
        return _json({"name": self._config.name, "ready": True})

    # --- out: what people and probes ask

    async def _scored(self, request: Request) -> Response:
        self._tokens.caller(request)
        event_id: str = request.path_params["id"]
        found = await self._read(lambda: self._backend.score(event_id))
        if found is None:
            raise Problem(
                "not-found",
                f"no score of {event_id[:80]!r} among the newest {KEPT:,}; all scores are in topic "
                f"{self._topics.scores!r}",
            )
        return Response(found, media_type=JSON)

    async def _reasons(self, request: Request) -> Response:
        """Why an event has its score: as told with it, and as it would be now."""
        self._tokens.caller(request)
        event_id: str = request.path_params["id"]
        if self._config.reasons is None:
            raise Problem("not-found", "reasons: expected [reasons] in the configuration, got none")
        scored = await self._read(lambda: self._backend.score(event_id))
        record = {} if scored is None else msgspec.json.decode(scored)
        now = await self._between_steps(lambda: self._backend.why(event_id, self._timeout_s))
        then = record.get("reasons")
        if now is None and then is None:
            raise Problem(
                "not-found",
                f"{event_id[:80]!r}: expected an event that waits for its horizon, or one of the "
                f"newest {KEPT:,} scores with reasons",
            )
        return _json({"id": event_id, "then": then, "now": now})

    async def _models(self, request: Request) -> Response:
        self._tokens.caller(request)
        return _json(await self._read(self._backend.models))

    async def _parameters(self, request: Request) -> Response:
        self._tokens.caller(request)
        return _json(await self._read(self._backend.parameters))

    async def _audit(self, request: Request) -> Response:
        self._tokens.caller(request)
        found = await self._tail(request, self._topics.audit)
        return _json({"records": [msgspec.Raw(r.value) for r in found if r.value]})

    async def _dead_letters(self, request: Request) -> Response:
        # Raw payloads of events: for operators only.
        self._tokens.caller(request, "admin")
        found = await self._tail(request, self._topics.dead_letters)
        return _json({"records": [_shown(record) for record in found]})

    async def _live(self, request: Request) -> Response:
        self._tokens.caller(request)
        _require("diverged", self._backend.telling())
        if request.method == "HEAD":
            return Response(media_type="text/event-stream")
        return _LiveStream(self._feed)

    async def _metrics(self, request: Request) -> Response:
        text = await anyio.to_thread.run_sync(self._backend.metrics, limiter=self._scrapes)
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _livez(self, request: Request) -> Response:
        return _health("not-live", self._backend.alive())

    async def _readyz(self, request: Request) -> Response:
        return _health("not-ready", self._backend.ready())

    async def _document(self, request: Request) -> Response:
        return Response(self._openapi, media_type=JSON)

    async def _root(self, request: Request) -> Response:
        index = self._page / "index.html"
        return FileResponse(index) if index.is_file() else HTMLResponse(_LINKS)

    async def _plotly(self, request: Request) -> Response:
        return FileResponse(self._charts)

    async def _tail(self, request: Request, topic: str) -> list[Record]:
        limit = _limit(request)
        return await self._read(lambda: self._backend.tail(topic, limit))

    async def _read(self, call: Callable[[], T]) -> T:
        _require("diverged", self._backend.telling())
        return await anyio.to_thread.run_sync(call, limiter=self._reads)


class _LiveStream(StreamingResponse):
    """The feed's frames to one reader.

    It takes its place before its first frame is made, so that readers who come together are all
    counted, and gives it back however it ends.
    """

    def __init__(self, feed: Feed) -> None:
        super().__init__(feed.frames(), media_type="text/event-stream")
        self._feed = feed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._feed.place():
            await super().__call__(scope, receive, send)


def _plotly_script() -> Path:
    """The charts' JavaScript as the plotly package ships it; does not import the package."""
    spec = find_spec("plotly")
    folders = spec.submodule_search_locations if spec else None
    return Path(*(folders or ["plotly-is-not-installed"])[:1], "package_data", "plotly.min.js")


def _json(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type=JSON)


def _appended(topic: str, positions: Sequence[tuple[int, int]]) -> dict[str, Any]:
    partitions: dict[int, dict[str, int]] = {}
    for partition, offset in positions:
        row = partitions.setdefault(
            partition, {"partition": partition, "first": offset, "last": offset, "count": 0}
        )
        row["last"] = offset
        row["count"] += 1
    return {"topic": topic, "count": len(positions), "partitions": list(partitions.values())}


def _limit(request: Request) -> int:
    given = request.query_params.getlist("limit") or [str(TAIL_DEFAULT)]
    text = given[0]
    if len(given) > 1 or not (text.isascii() and text.isdecimal() and len(text) < 5):
        raise _bad_limit(", ".join(given))
    if not 1 <= int(text) <= TAIL_MOST:
        raise _bad_limit(text)
    return int(text)


def _bad_limit(got: str) -> Problem:
    detail = f"limit: expected one whole number of 1..{TAIL_MOST}, got {got[:80]!r}"
    return Problem("query", detail)


def _shown(record: Record) -> dict[str, str | None]:
    """A dead letter: reason, error and position from its headers, and its bytes."""
    shown: dict[str, str | None] = {k: v.decode(errors="replace") for k, v in record.headers}
    if record.value is None:
        return shown | {"encoding": "null", "value": None}
    try:
        return shown | {"encoding": "utf-8", "value": record.value.decode()}
    except UnicodeDecodeError:
        return shown | {"encoding": "hex", "value": record.value.hex()}


def _health(kind: str, state: tuple[bool, str]) -> Response:
    return _json({"status": "ok", "detail": _require(kind, state)})


def _require(kind: str, state: tuple[bool, str]) -> str:
    """The sentence of a state that is good; raises :class:`Problem` with it otherwise."""
    good, sentence = state
    if not good:
        raise Problem(kind, sentence)
    return sentence


def _stopping(where: dict[str, Any]) -> Problem:
    return Problem(
        "stopping", "the event is in the log and will be scored after the restart", **where
    )


async def _on_problem(request: Request, error: Exception) -> Response:
    if isinstance(error, Problem):
        return error.response(request.url.path)
    return await _on_error(request, error)


async def _on_http(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        return from_http_exception(request, error).response(request.url.path)
    return await _on_error(request, error)


async def _on_log(request: Request, error: Exception) -> Response:
    what = "the log's disk is full" if isinstance(error, DiskFull) else "the log does not answer"
    told = f"{what}; nothing was confirmed, send again later"
    return Problem("log-unavailable", told).response(request.url.path)


async def _on_gone(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_GONE)


async def _on_error(request: Request, error: Exception) -> Response:
    return Problem("failed", "see the service's log").response(request.url.path)


_HANDLERS: dict[Any, Any] = {
    Problem: _on_problem,
    HTTPException: _on_http,
    LogUnavailable: _on_log,
    ClientDisconnect: _on_gone,
    Exception: _on_error,
}

_LINKS = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Millrace</title></head>
<body><h1>Millrace</h1><ul>
<li><a href="/openapi.json">API description</a></li>
<li><a href="/metrics">metrics</a></li>
<li><a href="/livez">live</a>, <a href="/readyz">ready</a></li>
<li><a href="/v1/models">models</a>, <a href="/v1/parameters">parameters</a>,
<a href="/v1/audit">audit</a></li>
</ul></body></html>
"""
