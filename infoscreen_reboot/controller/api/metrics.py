"""`/metrics`, for Prometheus: every number is asked for when it is asked for."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from infoscreen_reboot.controller.api.access import Site, Viewer
from infoscreen_reboot.controller.store import figures
from infoscreen_reboot.controller.store.figures import Figures

router = APIRouter(include_in_schema=False)


class _Collector(Collector):
    def __init__(self, site: Site) -> None:
        self._site = site

    def collect(self) -> Iterable[Metric]:
        started = time.perf_counter()
        with self._site.database.read() as tx:
            answered_s = time.perf_counter() - started
            found = figures.count(tx)
        yield from _families(found)
        yield _gauge("database_latency_seconds", "What the shortest question to the database took.", answered_s)
        rubbish = CounterMetricFamily(
            "infoscreen_ignored_messages", "Messages that nobody can use, in this process.", labels=["what"]
        )
        for what, number in sorted(self._site.rubbish().items()):
            rubbish.add_metric([what], number)
        yield rubbish


def _families(found: Figures) -> Iterable[Metric]:
    commands = GaugeMetricFamily(
        "infoscreen_commands",
        "Commands that are stored. Of completed reboots only those with the proof boot_id were one.",
        labels=["action", "state", "proof"],
    )
    for labels, number in sorted(found.commands.items()):
        commands.add_metric(labels, number)
    clients = GaugeMetricFamily(
        "infoscreen_clients", "Clients; of unknown presence is who was never heard.", labels=["standing", "presence"]
    )
    for of_client, number in sorted(found.clients.items()):
        clients.add_metric(of_client, number)
    yield commands
    yield clients
    yield _by_state("recoveries", "Recoveries that are open.", found.recoveries)
    yield _by_state("rollouts", "Rollouts that are not over.", found.rollouts)
    yield _by_state("nights", "Nights of schedules whose window was open within the last day.", found.nights)
    oldest_s = found.oldest_open.total_seconds()
    yield _gauge("oldest_open_command_seconds", "The age of the oldest command without a verdict.", oldest_s)
    yield _gauge("alerts", "Units of clients that have failed.", found.alerts)
    yield _gauge("ports_held_off", "Ports that should be on again by now, and may be off.", found.ports_held_off)
    words = "Messages to people that a target has not taken: tried again, or given up within the last day."
    yield _gauge("notices_undelivered", words, found.undelivered)
    yield _gauge("lease_held", "1 if an instance holds the lease.", found.is_lease_held)
    yield _gauge("broker_heard", "1 if the holder of the lease hears the broker.", found.is_broker_heard)


def _by_state(name: str, words: str, numbers: Mapping[str, int]) -> Metric:
    made = GaugeMetricFamily(f"infoscreen_{name}", words, labels=["state"])
    for state, number in sorted(numbers.items()):
        made.add_metric([state], number)
    return made


def _gauge(name: str, words: str, value: float) -> Metric:
    return GaugeMetricFamily(f"infoscreen_{name}", words, value=float(value))


@router.get("/metrics")
def metrics(call: Viewer) -> Response:
    """Not of this process only: whichever instance is asked, the database answers."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(call.site))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
