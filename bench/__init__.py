"""The benchmark: this array beside what one would use instead, on one machine, in one run, taking turns.

    python -m bench            everything: build/bench.json, docs/benchmarks.md and its plots
    python -m bench --quick    under two minutes: build/bench-quick.json and a table
    python -m bench --render   the page again, from build/bench.json

Rooms: `ours` and `peers` start what is measured, `work` is what they are given to do, `turns` has them do it in turn,
`floor` measures what the promise costs at least, `goals` judges, `report` shows. Absolute figures of a shared machine
drift by the minute, so what counts are ratios within one round. What cannot run here is skipped by name, with the
reason.
"""
