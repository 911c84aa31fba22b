"""
Metrics for Prometheus: counted by a monitor, summed when they are asked for.
"""

from __future__ import annotations

from smtpsvc.metrics.attached import attach
from smtpsvc.metrics.counters import Metrics
from smtpsvc.metrics.pages import MetricsService
from smtpsvc.metrics.totals import Gathered

__all__ = ["Gathered", "Metrics", "MetricsService", "attach"]
