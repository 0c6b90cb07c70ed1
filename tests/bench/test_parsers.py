"""What other programs print: pgbench, ss, the main program's log; and what etcd is sent."""

import pytest

from bench import wire
from bench.ours import scaling
from bench.peers import grpc
from bench.work import pgbench, table


def test_pgbench_logs_a_line_for_each_transaction():
    lines = ["0 1 2000 0 100 2000", "1 1 4000 0 100 5000", "0 2 3000 0 101 1000 more"]
    result = pgbench.parse(lines, table.ALL["pgbench-1"], 0.25)
    assert (result.operations, result.p50_us, result.p99_us) == (3, 3000, 4000)
    assert result.duration_s == pytest.approx(1.001)
    with pytest.raises(RuntimeError, match="nothing"):
        pgbench.parse([], table.ALL["pgbench-1"], 0)


SS = """\
ESTAB 0 0 127.0.0.1:7001 127.0.0.1:50000 users:(("disk",pid=11,fd=5))\tcubic bytes_sent:500 bytes_acked:500 rtt:1
ESTAB 0 0 127.0.0.1:50000 127.0.0.1:7001 users:(("main",pid=10,fd=9))\tcubic bytes_sent:7000 bytes_received:500
ESTAB 0 0 127.0.0.1:9999 127.0.0.1:50001 users:(("main",pid=10,fd=7))\tcubic bytes_sent:123456
ESTAB 0 0 127.0.0.1:50001 127.0.0.1:9999 users:(("client",pid=99,fd=3))\tcubic bytes_sent:99
ESTAB 0 0 127.0.0.1:7002 127.0.0.1:50002 users:(("disk",pid=11,fd=6))\tcubic rtt:1
ESTAB 0 0 127.0.0.1:50002 127.0.0.1:7002 users:(("main",pid=10,fd=8))\tcubic rtt:1
"""


def test_bytes_are_counted_between_the_parts_and_not_to_clients():
    found = wire.parse(SS, {10, 11})
    assert found == {
        ("127.0.0.1:7001", "127.0.0.1:50000"): 500,
        ("127.0.0.1:50000", "127.0.0.1:7001"): 7000,
        ("127.0.0.1:7002", "127.0.0.1:50002"): 0,
        ("127.0.0.1:50002", "127.0.0.1:7002"): 0,
    }


def test_what_was_sent_between_two_looks_counts_new_connections_whole():
    assert wire.between({("a", "b"): 100, ("gone", "b"): 5}, {("a", "b"): 160, ("c", "d"): 7}) == 67


LOG = """\
2030-01-01 00:00:00,100 INFO mounting array 00ff from 5 addresses
2030-01-01 00:00:09,000 INFO serving nbd+unix:///perdure?socket=/s
2030-01-01 00:01:00,250 INFO mounting array 00ff from 5 addresses
2030-01-01 00:01:00,300 WARNING something else
2030-01-01 00:01:00,375 INFO serving nbd+unix:///perdure?socket=/s
"""


def test_a_mount_takes_from_the_last_first_word_until_it_serves():
    assert scaling.logged_mount_s(LOG) == 0.125
    with pytest.raises(ValueError, match="does not say"):
        scaling.logged_mount_s("")


def test_the_speed_of_repair_is_in_bytes_of_the_array():
    assert scaling.speed_mib_s({"done_bytes": 64 << 20, "duration_ms": 500}) == 128


def test_protobuf_fields_and_numbers():
    assert grpc.varint(0) == b"\x00"
    assert grpc.varint(300) == b"\xac\x02"  # protobuf's own example
    assert grpc.field(2, b"testing") == b"\x12\x07testing"
    assert grpc.field(2, bytes(4096))[:3] == b"\x12\x80\x20"


def test_a_frame_has_nine_bytes_before_its_payload():
    assert grpc.frame(0, 1, 3, b"ab") == bytes([0, 0, 2, 0, 1, 0, 0, 0, 3]) + b"ab"
    assert grpc.frame(6, 0, 0, bytes(70_000))[:3] == (70_000).to_bytes(3, "big")


def test_the_header_block_is_literal():
    block = grpc.headers("/a.B/C")
    assert block.startswith(b"\x83\x86\x04\x06/a.B/C\x01\x04etcd\x0f\x10\x10application/grpc")
    assert block.endswith(b"\x00\x02te\x08trailers")
