"""What py-spy collects becomes shares of functions, each counted once a sample."""

from bench.profile import shares


def test_a_function_counts_once_a_sample_however_often_it_is_on_the_stack():
    text = "main (a.py:1);walk (a.py:5);walk (a.py:5);leaf (b.py:9) 3\nmain (a.py:2);leaf (b.py:7) 1\n"
    total, rows = shares(text)
    assert total == 4
    assert rows == [("leaf (b.py)", 1.0, 1.0), ("main (a.py)", 0.0, 1.0), ("walk (a.py)", 0.0, 0.75)]


def test_nothing_collected_is_no_error():
    assert shares("") == (0, [])
