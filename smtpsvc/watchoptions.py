"""
The options of ``twistd smtpsvc`` that let others watch it: metrics, and the log as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from sys import stdout
from typing import Any, ClassVar

from smtpsvc.jsonlines import JSONLog, standard_output
from smtpsvc.listeners import Listener, parse_listener
from smtpsvc.metrics.exposition import load
from smtpsvc.watching import Watching


class WatchOptions:
    """A part of :class:`smtpsvc.tap.Options`."""

    optParameters: ClassVar[list[list[Any]]] = [
        [
            "metrics",
            None,
            None,
            "Serve metrics for Prometheus there, with /healthz and /readyz. What may be given is as for --port.",
        ],
        [
            "log-json",
            None,
            None,
            "Write the log to this file as JSON too, an object a line. - is the standard output, without the text.",
        ],
    ]


def make_metrics(options: Mapping[str, Any], reactor: Any) -> Listener | None:
    """
    Read ``--metrics``.

    :returns: where they are served, not listening; None if they are not asked for.
    :raises ValueError: with a sentence that names the option.
    """
    text = options["metrics"]
    if text is None:
        return None
    load()
    listener = parse_listener(text, reactor, option="--metrics")
    if listener.proxied or listener.implicit_tls:
        raise ValueError(f"--metrics {text}: it takes no haproxy: and no implicit-tls: in front; for TLS write ssl:")
    return listener


def make_json_log(options: Mapping[str, Any]) -> JSONLog | None:
    """
    Read ``--log-json``; no file is opened yet.

    :returns: None if it is not asked for.
    :raises ValueError: with a sentence that names the option.
    """
    path = options["log-json"]
    if path is None:
        return None
    if not path or path.endswith("/"):
        raise ValueError("--log-json: this is no file; give the name of one, or - for the standard output")
    return JSONLog(path)


def replace_text(parent: MutableMapping[str, Any] | None, log: JSONLog) -> bool:
    """
    Let JSON take the place of the text that ``twistd`` or ``twist`` would write to the standard output.

    :param parent: their options; None if there are none.
    :returns: True if *log* gets all that is logged in this way, False if it is to be added as an observer.
    :raises ValueError: with a sentence, for a daemon, which has no standard output.
    """
    if log.path != "-" or parent is None:
        return False
    if "fileLogObserverFactory" in parent:
        # twist, which keeps to its --log-level.
        if parent["logFile"] is not stdout:
            return False
        parent["fileLogObserverFactory"] = lambda file: log
        return True
    if not parent.get("nodaemon", True):
        raise ValueError("--log-json -: a daemon has no standard output; give a file, or run twistd -n")
    if parent.get("logger") or parent.get("syslog") or parent.get("logfile") not in (None, "", "-"):
        return False
    parent["logger"] = f"{standard_output.__module__}.{standard_output.__qualname__}"
    return True


def make_watching(options: Any, reactor: Any) -> Watching:
    """
    Read these options; nothing is opened yet.

    :param options: parsed; its ``parent`` may get another log.
    :raises ValueError: with a sentence that names the option.
    """
    listener, log = make_metrics(options, reactor), make_json_log(options)
    return Watching(listener, log, json_only=log is not None and replace_text(options.parent, log))
