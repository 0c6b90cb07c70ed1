"""The floor's sums; and that every step can be carried out."""

from bench import floor
from bench.model import K, N


def test_the_sum_counts_every_step_as_often_as_it_is_needed():
    costs = {step.name: 0.0 for step in floor.STEPS} | {floor.BELIEVE: 300.0, floor.SIGN: 20.0, floor.MAC: 4.0}
    totals = floor.totals(costs, cores=2)
    assert totals["durable_cpu_us"] == N * 300 + N * 20 + 2 * 4
    assert totals["durable_us"] == totals["durable_cpu_us"] / 2
    assert totals["chains_cpu_us"] == N * 20 + 2 * 4
    assert totals["read_cpu_us"] == K * 20 + 2 * 4


def test_chains_and_reads_need_no_hardware():
    for step in floor.STEPS:
        if step.name in (floor.ATTEST, floor.BELIEVE, floor.DOCUMENT):
            assert (step.durable >= N, step.chains, step.read) == (True, 0, 0)


def test_every_step_can_be_carried_out():
    operations = floor.operations()
    assert operations.keys() == {step.name for step in floor.STEPS}
    for operation in operations.values():
        operation()


def test_medians_are_taken_of_each_step():
    costs = [{step.name: value for step in floor.STEPS} for value in (1.0, 5.0, 2.0)]
    assert set(floor.medians(costs).values()) == {2.0}
