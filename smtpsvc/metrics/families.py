"""
The metrics that there are: one table, from which the page and its documentation are made.

Nothing that a client has chosen is a label: verbs, mechanisms and limits are those that the server knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

#: The upper ends of the buckets of a histogram.
_SHORT: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_LONG: Final = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 1800.0, 3600.0)
_SIZES: Final = tuple(float(1024 * 4**power) for power in range(10))


@dataclass(frozen=True, slots=True)
class Family:
    """
    One metric with all its labels.

    :param kind: ``counter``, ``gauge`` or ``histogram``.
    :param help: what it is, in one sentence without a full stop.
    :param bounds: the upper ends of a histogram's buckets, without the last, which has none.
    """

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()
    bounds: Sequence[float] = ()


_TABLE: Final = (
    Family("connections_total", "counter", "Clients that have connected", ("role",)),
    Family("connections_open", "gauge", "Clients that are connected now", ("role",)),
    Family("session_duration_seconds", "histogram", "How long clients stayed", ("role",), _LONG),
    Family("messages_total", "counter", "Messages whose content has come, by what the client was told",
           ("role", "result")),
    Family("message_bytes_total", "counter", "Bytes of the content of these messages", ("role", "result")),
    Family("recipients_total", "counter", "Recipients of these messages, by what the client was told of each",
           ("role", "result")),
    Family("message_duration_seconds", "histogram", "From MAIL to the reply to the content", ("role",), _SHORT),
    Family("message_size_bytes", "histogram", "Size of messages whose content has come", ("role",), _SIZES),
    Family("transactions_broken_total", "counter", "Transactions in the middle of which the connection ended",
           ("role",)),
    Family("replies_total", "counter", "Replies, by the verb that they answer and the first digit of their code",
           ("role", "verb", "class")),
    Family("logins_total", "counter", "Credentials that were judged", ("role", "mechanism", "result")),
    Family("tls_handshakes_total", "counter", "TLS handshakes that were completed", ("role", "version")),
    Family("tls_handshake_failures_total", "counter", "TLS handshakes that were not", ("role",)),
    Family("hook_wait_seconds", "histogram", "How long the backend and policies took where they did not answer at once",
           ("role", "hook"), _SHORT),
    Family("limits_total", "counter", "How often clients met a limit, by the name of its option", ("role", "limit")),
    Family("backend_failures_total", "counter", "Hooks that raised something other than a refusal", ("role",)),
    Family("buffered_bytes", "gauge", "Bytes in memory that wait for the backend or for clients"),
    Family("buffered_limit_bytes", "gauge", "How many of them there may be (--max-buffered)"),
    Family("connections_limit", "gauge", "How many clients may be connected (--max-connections); 0 is no limit"),
    Family("unfinished_hooks", "gauge", "Hooks that still run although nobody waits for them any more"),
    Family("stopping", "gauge", "1 while the service ends, else 0"),
    Family("processes", "gauge", "Processes that serve"),
    Family("process_cpu_seconds_total", "counter", "Processor time of these processes"),
    Family("process_resident_bytes", "gauge", "Memory of these processes"),
    Family("process_open_files", "gauge", "Descriptors that these processes have open"),
)  # fmt: skip

#: By the name that Prometheus has for it.
FAMILIES: Final[Mapping[str, Family]] = {
    f"smtpsvc_{each.name}": Family(f"smtpsvc_{each.name}", each.kind, each.help, each.labels, each.bounds)
    for each in _TABLE
}
