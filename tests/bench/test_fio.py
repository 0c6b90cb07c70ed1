"""fio's command line and its output."""

import json

import pytest

from bench.model import MIB, Access
from bench.work import fio, table

PLACE = fio.Place.nbd("nbd+unix:///x?socket=/s")


def side(ios, p50, p99, runtime_ms=2000):
    percentiles = {"50.000000": p50 * 1000, "99.000000": p99 * 1000}
    return {"total_ios": ios, "runtime": runtime_ms, "lat_ns": {"percentile": percentiles}}


def output(**sides):
    job = {"error": 0, "usr_cpu": 10.0, "sys_cpu": 15.0, "job_runtime": 4000}
    empty = {"read": side(0, 0, 0), "write": side(0, 0, 0), "sync": {"lat_ns": {}}}
    return "fio: a note before it\n" + json.dumps({"jobs": [{**job, **empty, **sides}]})


def test_a_durable_write_is_so_many_clients_that_wait_for_their_own_fsync():
    words = fio.arguments(table.durable(32), PLACE, 4)
    assert {"--rw=randwrite", "--bs=4096", "--iodepth=1", "--numjobs=32", "--fsync=1", "--thread"} <= set(words)


def test_other_work_is_one_client_with_so_many_operations_under_way():
    words = fio.arguments(table.read(16), PLACE, 4)
    assert {"--rw=randread", "--iodepth=16"} <= set(words)
    assert not any(word.startswith(("--fsync", "--numjobs")) for word in words)


def test_mixed_and_sequential_work():
    assert {"--rw=randrw", "--rwmixread=70", "--iodepth=32"} <= set(fio.arguments(table.MIXED, PLACE, 4))
    assert {"--rw=read", f"--bs={MIB}"} <= set(fio.arguments(table.sequential(Access.READ), PLACE, 4))


def test_a_run_shorter_than_a_second_is_given_in_milliseconds_since_fio_takes_whole_numbers():
    assert "--runtime=500ms" in fio.arguments(table.read(1), PLACE, 0.5)


def test_files_are_read_past_the_page_cache():
    assert {"--direct=1", "--filename=/m/f"} <= set(fio.arguments(table.read(1), fio.Place.file("/m/f"), 1))


def test_a_read():
    result = fio.parse(output(read=side(8000, 20, 90)), table.read(1))
    assert (result.operations, result.duration_s, result.p50_us, result.p99_us) == (8000, 2.0, 20, 90)
    assert result.client_cpu_s == 1.0


def test_latency_of_a_durable_write_is_that_of_write_and_fsync_together():
    text = output(write=side(100, 20, 90), sync=side(100, 300, 700))
    result = fio.parse(text, table.durable(1))
    assert (result.operations, result.p50_us, result.p99_us) == (100, 320, 790)
    assert result.details["fsync_p50_us"] == 300


def test_mixed_work_counts_both_sides_and_shows_the_latency_of_each():
    result = fio.parse(output(read=side(700, 20, 90), write=side(300, 40, 80)), table.MIXED)
    assert (result.operations, result.p50_us, result.details["write_p50_us"]) == (1000, 20, 40)


def test_a_failed_run_is_an_error():
    with pytest.raises(RuntimeError, match="error 5"):
        fio.parse(output(error=5), table.read(1))
    with pytest.raises(RuntimeError, match="nothing"):
        fio.parse(output(), table.read(1))
