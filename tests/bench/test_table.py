"""The work that there is, and choosing of it."""

import pytest

from bench.model import Access, Kind
from bench.ours.targets import PLAIN, require_connections, targets
from bench.peers import etcd
from bench.work import table


def test_every_depth_with_and_without_fsync_is_there():
    names = [f"{kind}-{depth}" for kind in ("durable-write", "write", "read") for depth in (1, 4, 16, 32, 64)]
    assert set(names) < set(table.ALL)
    assert {"sequential-write", "sequential-read", "mixed-32"} < set(table.ALL)
    assert {"sqlite", "pgbench-1", "pgbench-8", "lmdb", "rocksdb"} < set(table.ALL)


def test_work_is_chosen_by_name_or_by_its_beginning():
    assert [work.name for work in table.chosen(("durable-write-4",), quick=False)] == ["durable-write-4"]
    assert [work.name for work in table.chosen(("write",), quick=False)] == [f"write-{d}" for d in table.DEPTHS]
    assert len(table.chosen((), quick=False)) == len(table.ALL)


def test_a_quick_run_is_what_goals_are_about():
    names = {work.name for work in table.chosen((), quick=True)}
    assert names == {
        *("durable-write-1", "durable-write-32", "write-32", "read-1", "read-32"),
        *("sequential-write", "sequential-read"),
    }


def test_etcd_puts_durably_and_reads_single_values_and_does_nothing_else():
    assert etcd.takes(table.durable(4))
    assert etcd.takes(table.read(4))
    assert not etcd.takes(table.write(4))
    assert not etcd.takes(table.sequential(Access.READ))
    assert not etcd.takes(table.MIXED)
    assert not etcd.takes(table.ALL["sqlite"])


def test_more_clients_than_the_server_takes_are_skipped_with_the_reason(monkeypatch):
    monkeypatch.setattr("bench.ours.targets.CONNECTIONS_MAX", 32)
    require_connections(table.durable(32))
    require_connections(table.read(64))
    with pytest.raises(Exception, match="64 NBD connections"):
        require_connections(table.durable(64))


def test_the_plain_array_is_the_first_target():
    assert next(iter(targets())) == PLAIN
    assert all(work.kind is Kind.BLOCK for work in table.BLOCK)
