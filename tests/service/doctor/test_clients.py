"""Ways to use the served disk: one is enough."""

import pytest

from perdure.service.doctor import clients
from perdure.service.doctor.clients import Attachment
from perdure.service.doctor.finding import Level

NOTHING = {
    "has_nbd_module": False,
    "has_nbd_client": False,
    "has_fuse": False,
    "has_nbdfuse": False,
    "has_loop": False,
}
KERNEL = {"has_nbd_module": True, "has_nbd_client": True}
FUSE = {"has_fuse": True, "has_nbdfuse": True}


def levels(**there):
    here = Attachment(**{**NOTHING, **there})
    return [judge(here).level.value for judge in (clients.kernel_client, clients.fuse_client, clients.loop_devices)]


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        ({}, ["warn", "warn", "ok"]),
        (KERNEL, ["ok", "ok", "ok"]),
        ({**FUSE, "has_loop": True}, ["ok", "ok", "ok"]),
        (FUSE, ["ok", "ok", "warn"]),
        ({**FUSE, **KERNEL}, ["ok", "ok", "ok"]),
        ({"has_nbd_module": True}, ["warn", "warn", "ok"]),
        ({"has_nbdfuse": True}, ["warn", "warn", "ok"]),
    ],
)
def test_what_is_missing_matters_only_where_nothing_does_the_same(there, expected):
    assert levels(**there) == expected


def test_what_is_missing_is_named():
    found = clients.kernel_client(Attachment(**{**NOTHING, "has_nbd_module": True}))
    assert found.found == "Not here: nbd-client"
    assert "modprobe nbd" in found.do


def test_a_vsock_matters_only_to_an_address_on_one():
    assert clients.vsock([], has_vsock=False).level is Level.OK
    assert clients.vsock(["tcp:a:1"], has_vsock=False).level is Level.OK
    assert clients.vsock(["vsock:16:7000"], has_vsock=True).level is Level.OK
    found = clients.vsock(["tcp:a:1", "vsock:16:7000"], has_vsock=False)
    assert found.level is Level.FAIL
    assert "vsock:16:7000" in found.found
