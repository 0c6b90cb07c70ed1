"""A status as Prometheus metrics: names and units by its conventions (base units, `_total`, `_seconds`).

A status has all counters already, so nothing is counted here: `StatusCollector` makes the metrics of one status, in
`prometheus_client`'s terms, and `render` writes them in the text format. Labels are few and bounded: seats, and words
of closed lists. `domain` and what is in `perdure_disk_info` come from hosts or the configuration.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import accumulate
from typing import Any, Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from perdure import __version__
from perdure.service.status import ArrayStatus, DiskState, DiskStatus, RepairState, State
from perdure.shell.meter import BOUNDS_US

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4
_BOUNDS: Final = (*(str(us / 1e6) for us in BOUNDS_US), "+Inf")
"""Of every histogram's buckets, in seconds."""
_SEAT: Final = ("seat", "domain")
_REPAIR: Final = ("verb", "seat")
_ESCAPES: Final = str.maketrans({"\\": "\\\\", "\n": "\\n", '"': '\\"'})


def render(status: ArrayStatus) -> bytes:
    """One scrape, in Prometheus' text format, version 0.0.4.

    As `prometheus_client.generate_latest` writes it (a test compares them), in a third of the time: that one checks
    every label's name on the way, and this runs on the event loop that serves the array.
    """
    lines = []
    for metric in StatusCollector(status).collect():
        name, kind = f"{metric.name}{_SUFFIX.get(metric.type, '')}", _KIND.get(metric.type, metric.type)
        lines += [f"# HELP {name} {metric.documentation}", f"# TYPE {name} {kind}"]
        lines += map(_line, metric.samples)
    return "\n".join([*lines, ""]).encode()


_SUFFIX: Final = {"counter": "_total", "info": "_info"}
_KIND: Final = {"info": "gauge"}


def _line(sample: Sample) -> str:
    return f"{_series(sample.name, tuple(sample.labels.items()))} {sample.value}"


@lru_cache(4096)
def _series(name: str, labels: tuple[tuple[str, str], ...]) -> str:
    """Name and labels. With a memory, since every scrape has the same: more than those of sixteen disks."""
    pairs = ",".join(f'{label}="{value.translate(_ESCAPES)}"' for label, value in labels)
    return f"{name}{{{pairs}}}" if labels else name


class StatusCollector(Collector):
    """The metrics of one status."""

    def __init__(self, status: ArrayStatus) -> None:
        self._status = status

    def collect(self) -> Iterable[Metric]:
        """See the table in docs/monitoring.md."""
        yield InfoMetricFamily("perdure_build", "Which release runs.", {"version": __version__})
        yield from _array(self._status)
        yield from _disks(self._status.disks)
        yield from _requests(self._status.requests)
        yield from _evidence(self._status.evidence)
        yield from _repairs(self._status)

    def describe(self) -> Iterable[Metric]:
        """Nothing: then registering does not collect."""
        return ()


# The array ------------------------------------------------------------------------------------------------


def _array(status: ArrayStatus) -> Iterator[Metric]:
    array = {"array_id": status.array_id, "name": status.name, "acknowledgements": status.acknowledgements}
    yield InfoMetricFamily("perdure_array", "Which array it is, and what its FLUSHes rest on.", array)
    yield _states("perdure_array_state", "1 for the state that the array is in, 0 for the others.", State, status.state)
    for name, text, value in (
        (
            "losses_survived",
            "How many more disks may be lost now, silent ones counted as lost.",
            status.losses_survived,
        ),
        ("disks_needed", "k: how many disks must be there.", status.k),
        ("disks", "n: how many seats there are.", status.n),
        ("size_bytes", "What the array presents.", status.size_bytes),
        ("dirty_sectors", "Sectors that are not yet at home on every disk.", status.dirty_sectors),
        ("known_tags", "Sectors whose tags are in memory.", status.tags_known),
        ("roster_version", "Changes of the roster since the mount that made it.", _counter_of(status)),
        ("spares", "Blank disks that wait for an empty seat.", len(status.spares)),
        ("strays", "Addresses where something else was found than a disk of the array.", len(status.strays)),
        ("uptime_seconds", "Since this main program has mounted the array.", status.uptime_ms / 1000),
    ):
        yield GaugeMetricFamily(f"perdure_array_{name}", text, value)
    yield _optional(
        "perdure_array_evidence_age_seconds", "Of the member that proved itself longest ago.", _seconds(status)
    )
    scrubbed = None if status.scrubbed_unix_ms is None else status.scrubbed_unix_ms / 1000
    yield _optional("perdure_array_last_scrub_timestamp_seconds", "When the last whole scrub ended.", scrubbed)
    yield CounterMetricFamily(
        "perdure_journal_entries", "Entries of the journal, over the array's life.", status.journal_last
    )
    yield CounterMetricFamily("perdure_events", "Events, over the array's life.", status.events_last)


def _counter_of(status: ArrayStatus) -> int:
    return int(status.roster_version.rpartition(".")[2])


def _seconds(one: ArrayStatus | DiskStatus) -> float | None:
    return None if one.evidence_age_ms is None else one.evidence_age_ms / 1000


def _states(name: str, text: str, states: Iterable[str], current: str) -> Metric:
    family = GaugeMetricFamily(name, text, labels=("state",))
    for state in states:
        family.add_metric((state,), float(state == current))
    return family


def _optional(name: str, text: str, value: float | None) -> Metric:
    """Without a sample while it is not known: a zero would be a claim."""
    family = GaugeMetricFamily(name, text, labels=())
    if value is not None:
        family.add_metric((), value)
    return family


# Disks ----------------------------------------------------------------------------------------------------


def _disks(disks: Iterable[DiskStatus]) -> Iterator[Metric]:
    info = InfoMetricFamily("perdure_disk", "Which disk sits there, by its last evidence.", labels=_SEAT)
    state = GaugeMetricFamily("perdure_disk_state", "1 for the disk's state.", labels=(*_SEAT, "state"))
    errors = CounterMetricFamily(
        "perdure_disk_errors", "What a disk could not do, or did wrong.", labels=(*_SEAT, "kind")
    )
    age = GaugeMetricFamily("perdure_disk_evidence_age_seconds", "Since its last evidence.", labels=_SEAT)
    answers = HistogramMetricFamily(
        "perdure_disk_answer_duration_seconds", "From a question to its answer, evidence included.", labels=_SEAT
    )
    size = CounterMetricFamily("perdure_disk_answer_bytes", "Bytes of answers.", labels=_SEAT)
    failed = CounterMetricFamily("perdure_disk_answer_failures", "Questions without an answer.", labels=_SEAT)
    for disk in disks:
        seat = (str(disk.seat), disk.domain or "")
        info.add_metric(
            seat, {"disk_instance": disk.instance or "", "platform": disk.platform or "", "root": disk.root or ""}
        )
        for one in DiskState:
            state.add_metric((*seat, one), float(one is disk.state))
        for kind, count in disk.errors.items():
            errors.add_metric((*seat, kind), count)
        if disk.evidence_age_ms is not None:
            age.add_metric(seat, disk.evidence_age_ms / 1000)
        if disk.answers is not None:
            _add(answers, size, failed, seat, disk.answers)
    yield from (info, state, errors, age, answers, size, failed)


def _add(
    times: HistogramMetricFamily,
    size: CounterMetricFamily,
    failed: CounterMetricFamily,
    labels: tuple[str, ...],
    meter: Mapping[str, Any],
) -> None:
    """What `perdure.shell.meter` counted of one kind of work."""
    buckets = list(zip(_BOUNDS, accumulate(meter["buckets"]), strict=True))
    times.add_metric(labels, buckets, meter["us"] / 1e6)
    size.add_metric(labels, meter["bytes"])
    failed.add_metric(labels, meter["failed"])


# Requests and evidence ------------------------------------------------------------------------------------


def _requests(requests: Mapping[str, Any]) -> Iterator[Metric]:
    times = HistogramMetricFamily(
        "perdure_request_duration_seconds", "How long clients' requests took.", labels=("kind",)
    )
    size = CounterMetricFamily("perdure_request_bytes", "Bytes that clients read, wrote, trimmed.", labels=("kind",))
    failed = CounterMetricFamily("perdure_request_failures", "Clients' requests that failed.", labels=("kind",))
    for kind, meter in requests.items():
        _add(times, size, failed, (kind,), meter)
    yield from (times, size, failed)


def _evidence(meter: Mapping[str, Any]) -> Iterator[Metric]:
    times = HistogramMetricFamily(
        "perdure_evidence_verification_duration_seconds", "How long it took to judge a document.", labels=()
    )
    size = CounterMetricFamily("perdure_evidence_bytes", "Bytes of documents that were verified.", labels=())
    failed = CounterMetricFamily("perdure_evidence_verification_failures", "Documents refused.", labels=())
    if meter:
        _add(times, size, failed, (), meter)
    yield from (times, size, failed)


# Repairs --------------------------------------------------------------------------------------------------


def _repairs(status: ArrayStatus) -> Iterator[Metric]:
    state = GaugeMetricFamily("perdure_repair_state", "1 for the state of a repair.", labels=(*_REPAIR, "state"))
    ratio = GaugeMetricFamily("perdure_repair_progress_ratio", "How much of a repair is done, 0 to 1.", labels=_REPAIR)
    speed = GaugeMetricFamily("perdure_repair_bytes_per_second", "How fast a repair goes now.", labels=_REPAIR)
    mended = GaugeMetricFamily("perdure_repair_mended_sectors", "Sectors sent to a disk, or put right.", labels=_REPAIR)
    for repair in status.repairs:
        labels = (repair.verb, "" if repair.seat is None else str(repair.seat))
        for one in RepairState:
            state.add_metric((*labels, one), float(one is repair.state))
        ratio.add_metric(labels, repair.done_bytes / repair.total_bytes if repair.total_bytes else 0.0)
        mended.add_metric(labels, repair.mended_sectors)
        if not repair.state.is_over:
            speed.add_metric(labels, repair.bytes_per_s or 0)
    yield from (state, ratio, speed, mended)
