"""A TCP proxy before a Kafka broker that delays, cuts and corrupts by kind of request.

Reads only what it must: each frame's length, and of a request's header the API key and the
correlation id, by which the response finds its request. Runs in a thread of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
import threading
import time
from typing import NamedTuple, Self

PRODUCE, FETCH, LIST_OFFSETS, METADATA, FIND_COORDINATOR = 0, 1, 2, 3, 10
INIT_PRODUCER_ID, ADD_PARTITIONS, ADD_OFFSETS, END_TXN, TXN_OFFSET_COMMIT = 22, 24, 25, 26, 28
NAMES = {
    PRODUCE: "Produce",
    FETCH: "Fetch",
    LIST_OFFSETS: "ListOffsets",
    METADATA: "Metadata",
    FIND_COORDINATOR: "FindCoordinator",
    INIT_PRODUCER_ID: "InitProducerId",
    ADD_PARTITIONS: "AddPartitionsToTxn",
    ADD_OFFSETS: "AddOffsetsToTxn",
    END_TXN: "EndTxn",
    TXN_OFFSET_COMMIT: "TxnOffsetCommit",
}
"""API keys of the Kafka protocol that a fault may choose."""

DELAY, CUT, MUTE, LATE, CORRUPT = "delay", "cut", "mute", "late", "corrupt"
"""What is done to a request.

``delay``: it waits before it goes on. ``cut``: the connection closes instead. ``mute``: the broker
gets it, and the connection closes instead of its answer. ``late``: the connection closes at once,
the broker gets it seconds later. ``corrupt``: a bit flips in what is produced or fetched.
"""


class Fault(NamedTuple):
    """One fault: done to requests of one kind."""

    api: int
    action: str


FAULTS = [Fault(api, action) for api in NAMES for action in (DELAY, CUT, MUTE, LATE)] + [
    Fault(PRODUCE, CORRUPT),
    Fault(FETCH, CORRUPT),
]


class Proxy:
    """Listens on a free port of 127.0.0.1 and connects each client through to the broker.

    Faults come one after another in a seeded order, each at the next request of its kind, at least
    ``gap_s`` after the one before, while :attr:`armed`.
    """

    def __init__(self, seed: int, gap_s: float) -> None:
        self._rng = random.Random(f"proxy {seed}")
        self._gap_s = gap_s
        self._plan = FAULTS.copy()
        self._rng.shuffle(self._plan)
        self._last_s = 0.0
        self.target = 0
        self.port = 0
        self.armed = False
        self.held = 0
        self.history: list[str] = []
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    @property
    def left(self) -> int:
        """Faults of the plan that have not been done."""
        return len(self._plan)

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._client, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client's connection and its own to the broker."""
        try:
            there = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.close()
            return
        link = _Link(self, (reader, writer), there)
        tasks = [asyncio.create_task(link.requests()), asyncio.create_task(link.responses())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            await link.lingering()
        finally:
            for task in tasks:
                task.cancel()
            for end in (writer, there[1]):
                end.close()

    def choose(self, api: int) -> str:
        """What to do to this request; empty: nothing."""
        now = time.monotonic()
        if not (self.armed and self._plan) or now - self._last_s < self._gap_s:
            return ""
        fault = next((f for f in self._plan if f.api == api), None)
        if fault is None:
            return ""
        self._plan.remove(fault)
        self._last_s = now
        self.history.append(f"{NAMES[api]} {fault.action}")
        return fault.action

    def recent(self) -> list[str]:
        """The newest faults, oldest first."""
        return self.history[-20:]

    async def wait(self) -> None:
        """Hold a request for a while; :attr:`held` counts those that are."""
        self.held += 1
        try:
            await asyncio.sleep(self._rng.uniform(0.2, 3.0))
        finally:
            self.held -= 1

    def flip(self, frame: bytes) -> bytes:
        """One bit of the second half of a frame, where the records are."""
        raw = bytearray(frame)
        raw[self._rng.randrange(len(raw) // 2, len(raw))] ^= 1 << self._rng.randrange(8)
        return bytes(raw)


Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Link:
    """One connection through the proxy."""

    def __init__(self, proxy: Proxy, client: Ends, broker: Ends) -> None:
        self._proxy = proxy
        self._client = client
        self._broker = broker
        self._muted: set[int] = set()
        self._corrupted: set[int] = set()
        self._late: bytes | None = None

    async def requests(self) -> None:
        """Client to broker, until the connection ends or a fault ends it."""
        while (frame := await _frame(self._client[0])) is not None:
            api, _, correlation = struct.unpack_from(">hhi", frame, 4)
            action = self._proxy.choose(api)
            if action == DELAY:
                await self._proxy.wait()
            elif action == CUT:
                return
            elif action == LATE:
                self._late = frame
                return
            elif action == MUTE:
                self._muted.add(correlation)
            elif action == CORRUPT and api == PRODUCE:
                frame = self._proxy.flip(frame)
            elif action == CORRUPT:
                self._corrupted.add(correlation)
            await _send(self._broker[1], frame)

    async def responses(self) -> None:
        """Broker to client."""
        while (frame := await _frame(self._broker[0])) is not None:
            [correlation] = struct.unpack_from(">i", frame, 4)
            if correlation in self._muted:
                return
            if correlation in self._corrupted and len(frame) > 200:  # an empty fetch has no records
                self._corrupted.clear()
                frame = self._proxy.flip(frame)
            elif correlation in self._corrupted:
                self._corrupted = {correlation + 1}
            await _send(self._client[1], frame)

    async def lingering(self) -> None:
        """A late request: the client's side is closed, the broker gets it seconds later."""
        if self._late is not None:
            self._client[1].close()
            await self._proxy.wait()
            await _send(self._broker[1], self._late)
            await asyncio.sleep(1.0)  # the broker answers into nothing


async def _frame(reader: asyncio.StreamReader) -> bytes | None:
    """The next frame with its length, or ``None`` at the end of the connection."""
    with contextlib.suppress(OSError, asyncio.IncompleteReadError):
        head = await reader.readexactly(4)
        return head + await reader.readexactly(int.from_bytes(head))
    return None


async def _send(writer: asyncio.StreamWriter, frame: bytes) -> None:
    with contextlib.suppress(OSError):
        writer.write(frame)
        await writer.drain()
