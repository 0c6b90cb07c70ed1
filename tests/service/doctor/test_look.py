"""Facts are read of this very machine, and agree with what other programs read of it."""

import os
import resource
import shutil
import subprocess
import time

import psutil
import pytest

from perdure.service.doctor import look
from perdure.service.doctor.machine import TIME_ERROR


def test_memory_is_what_the_kernel_says_is_available():
    assert look.available_bytes() == pytest.approx(psutil.virtual_memory().available, rel=0.2)


def test_swap_areas_are_those_that_are_on():
    assert bool(look.swap_areas()) == bool(psutil.swap_memory().total)


def test_the_processors_features_are_read():
    assert os.uname().machine not in ("x86_64", "aarch64") or len(look.processor_flags()) > 5


def test_asking_the_clock_does_not_set_it():
    before_s = time.time() - time.monotonic()
    state, error_us = look.clock()
    assert state is None or 0 <= state <= TIME_ERROR
    assert error_us >= 0
    assert time.time() - time.monotonic() == pytest.approx(before_s, abs=0.5)


def test_clients_are_found_where_the_system_keeps_them():
    here = look.attachment()
    assert here.has_nbdfuse == (shutil.which("nbdfuse") is not None)
    assert here.has_fuse == os.path.exists("/dev/fuse")


def test_every_check_of_the_machine_has_a_name_of_its_own():
    found = look.this_machine((), None, None)
    names = [one.check for one in found]
    assert len(names) == len(set(names)) == 10


def test_limits_are_those_of_the_process_that_is_asked_about():
    with subprocess.Popen(
        ["sh", "-c", "ulimit -n 77; exec cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdin.write(b"?")
        other.stdin.flush()
        assert other.stdout.read(1) == b"?", "it has set its limit"
        assert look.limit(resource.RLIMIT_NOFILE, other.pid) == 77
    own = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert look.limit(resource.RLIMIT_NOFILE, None) == own
    assert look.limit(resource.RLIMIT_NOFILE, other.pid) == own, "it is gone"
