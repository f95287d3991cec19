"""`millrace run` and `replica`: logging, signals, watchdog, HTTP side, until a signal."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

import structlog
from structlog.types import EventDict, Processor

from monitoring.terminal import plain
from stream.run.front import Front
from stream.run.health import Health
from stream.run.refit.trainer import Trainer
from stream.run.replica.front import ReplicaFront
from stream.run.replica.replica import Replica
from stream.run.service import Service
from stream.run.threads import Threads
from stream.settings.schema import Config

logger = structlog.get_logger()


def on_a_terminal(logger: object, method: str, values: EventDict) -> EventDict:
    """Texts of others are texts on a terminal too; a traceback keeps its lines."""
    trace = str(values.pop("exception", "")).split("\n")
    shown = {key: plain(v) if isinstance(v, str) else v for key, v in values.items()}
    return shown | ({"exception": "\n".join(map(plain, trace))} if trace != [""] else {})


def configure_logging() -> None:
    """Key=value lines in a terminal, JSON elsewhere; always on standard error, UTC times."""
    terminal = sys.stderr.isatty()
    renderers: list[Processor] = (
        [on_a_terminal, structlog.dev.ConsoleRenderer()]
        if terminal
        else [structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(20),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )

    # kafka-python reports every refused connection at ERROR; the service says it once, with what
    # follows from it.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)


SWITCH_S = 0.0005
"""The interpreter's switch interval. An HTTP thread beside a busy loop waits for it: at the default
of 5 ms its p99 was measured at 31-42 ms, at 0.5 ms at 8-15 ms."""


def run_daemon(config: Config, accept_changes: bool) -> None:
    """Run until SIGTERM or SIGINT: finish the step, commit, checkpoint, close.

    A second signal ends the process at once (status 130). Raises what ended the service otherwise.
    """
    configure_logging()
    sys.setswitchinterval(SWITCH_S)
    service = Service(config, accept_changes)
    front = Front(service)
    if config.shard.role != "scorer":  # whose members the learner trains
        Trainer(service).start()
    _until_stopped(service, front)
    logger.info("stopped", seq=service.engine.seq if service.engine else 0)


def run_replica(config: Config, directory: Path | None) -> None:
    """Follow the service of ``config`` until SIGTERM or SIGINT, as :func:`run_daemon` ends.

    Raises what ended it: :class:`~stream.state.follow.Diverged`, once it was asked to stop.
    """
    configure_logging()
    sys.setswitchinterval(SWITCH_S)
    with ExitStack() as ending:
        if directory is None:
            directory = Path(ending.enter_context(TemporaryDirectory(prefix="millrace-replica-")))
        replica = Replica(config, directory)
        _until_stopped(replica, ReplicaFront(replica))
        logger.info("stopped", seq=replica.progress.verified_seq)


def _until_stopped(host: Service | Replica, front: Front) -> None:
    host.threads.start("watchdog", lambda: watch(host.health))
    obey_signals(host.stop, host.threads)
    front.start()
    spare_imports()
    try:
        host.run()
    finally:
        front.stop()


def spare_imports() -> None:
    """Let the collector never again look at what is there before the service: modules and kernels.

    They are 200,000 objects, and every full collection stood still for 100 ms over them.
    """
    gc.collect()
    gc.freeze()


def watch(health: Health) -> None:
    """End the process once nothing else will (:meth:`Health.overdue`)."""
    while (status := health.overdue()) is None:
        time.sleep(1.0)
    logger.critical("stalled", detail=health.alive()[1], waiting_for=health.ready()[1])
    os._exit(status)


def obey_signals(stop: Callable[[], None], threads: Threads) -> None:
    """Call ``stop`` at the first SIGTERM or SIGINT; end the process at the second (status 130).

    A thread does both. A Python handler would run in the main thread between two of its bytecodes,
    and wait for ever for a lock which that thread holds at the time: the logger's, for one.
    """
    signals, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _left_to_the_thread)

    def obey() -> None:
        number = signal.Signals(os.read(signals, 1)[0])
        logger.info("stopping", signal=number.name)
        stop()
        os.read(signals, 1)
        os._exit(130)

    threads.start("signals", obey)


def _left_to_the_thread(number: int, frame: FrameType | None) -> None:
    """The wake-up pipe has told the thread."""
