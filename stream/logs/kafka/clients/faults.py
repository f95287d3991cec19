"""What an error of Kafka means for the log: fenced, refused, away for now, or for good.

kafka-python has a class for each error that a broker can give; the errors of other clients are
turned into these first, so that the meaning of each is said once.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from kafka import errors

from stream.contract.log import Fenced, LogError, LogRefused, LogUnavailable, OutOfRetention

_FENCED = (
    errors.ProducerFencedError,
    errors.InvalidProducerEpochError,
    errors.FencedInstanceIdError,
)
_REFUSED = (errors.AuthorizationError, errors.SaslAuthenticationFailedError)
_IN_DOUBT = (
    errors.RetriableError,
    errors.IllegalStateError,
    errors.TransactionAbortedError,
    errors.InvalidTxnStateError,
    errors.InvalidProducerIdMappingError,
    errors.OutOfOrderSequenceNumberError,
    errors.UnknownProducerIdError,
    errors.UnknownError,
    errors.CorruptRecordError,  # bits that flipped on the way: right when sent or fetched again
    OSError,
)
"""Errors after which a new client may succeed."""
_FOR_GOOD: dict[type[BaseException], str] = {
    errors.MessageSizeTooLargeError: (
        "a record is larger than the max.message.bytes of the topic it goes to (scores, dead"
        " letters, audit or journal): raise that, or lower limits.record_bytes"
    ),
    errors.RecordListTooLargeError: (
        "the records of a step are larger than segment.bytes of their topic: raise that, or lower"
        " limits.batch"
    ),
    errors.InvalidTransactionTimeoutError: (
        "log.transaction_timeout is above the brokers' transaction.max.timeout.ms: lower it"
    ),
    errors.AuthorizationError: "docs/security.md lists the rights that the service needs",
}
"""What to do about errors that stay until somebody does it."""
_NUMBER = re.compile(r"\[Error (-?\d+)\]")
"""Some errors reach us in the words of another only."""


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """Raise kafka-python's errors as the log's."""
    try:
        yield
    except (errors.KafkaError, OSError) as error:
        raise _meaning(what, error) from error


def _meaning(what: str, error: BaseException) -> LogError:
    chain = list(_chain(error))

    def first(*kinds: type[BaseException]) -> BaseException | None:
        return next((e for e in chain if isinstance(e, kinds)), None)

    text = f"Kafka: {what}: {_said(error)}"
    if (cause := first(*_FENCED)) is not None:
        return Fenced(
            f"Kafka: {what}: {_said(cause)}; another process took over this shard, end this one"
        )
    if (cause := first(*_REFUSED)) is not None:
        return LogRefused(f"Kafka: {what}: {_said(cause)}{_hint(cause)}")
    if (cause := first(*_FOR_GOOD)) is not None:
        return LogError(f"Kafka: {what}: {type(cause).__name__}{_hint(cause)}")
    if isinstance(error, errors.OffsetOutOfRangeError):
        return OutOfRetention(
            f"{text}; the topic's retention deleted records this shard still needs: lengthen"
            " retention.ms, and start again, which says what is lost and how to go on"
        )
    if type(error) is errors.KafkaError or first(*_IN_DOUBT) is not None:
        return LogUnavailable(text)
    return LogError(text)


def _said(error: BaseException) -> str:
    """Its name and its words, in which the name may stand already."""
    name = type(error).__name__
    words = re.sub(rf"^\[Error -?\d+\] (?={name})", "", str(error))
    return words if words.startswith(name) else f"{name} {words}".rstrip()


def _hint(cause: BaseException) -> str:
    return next((f"; {hint}" for kind, hint in _FOR_GOOD.items() if isinstance(cause, kind)), "")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error, those in its arguments (a producer keeps its first failure there), its causes."""
    seen: list[BaseException] = []
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if one is not None and one not in seen:
            seen.append(one)
            waiting += [a for a in one.args if isinstance(a, BaseException)]
            waiting += [one.__cause__, one.__context__]
            if type(one) is errors.KafkaError and (number := _NUMBER.search(str(one))):
                waiting.append(errors.for_code(int(number[1]))())
    yield from seen
