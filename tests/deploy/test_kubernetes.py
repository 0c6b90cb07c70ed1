"""What Kubernetes is told: kustomize builds every overlay, the result fits the API, and no disk is ended by habit."""

from __future__ import annotations

import subprocess

import pytest

from perdure.service.site import config
from tests.deploy.files import DEPLOY, tool

yaml = pytest.importorskip("yaml", reason="PyYAML is not here; pip install kubernetes-validate brings it")

HERE = DEPLOY / "kubernetes"
OVERLAYS = ("nitro", "sev-snp", "tdx", "simulated")
DISK = {"app.kubernetes.io/name": "perdure", "app.kubernetes.io/component": "disk"}
K, N, ZONES = 3, 5, 3


def build(folder):
    """All objects that `kubectl apply -k` would send."""
    done = subprocess.run(
        [tool("kubectl", "kubernetes-client"), "kustomize", HERE / folder], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="module", params=OVERLAYS)
def built(request):
    """(overlay, its objects by kind and name)."""
    objects = build(f"overlays/{request.param}")
    return request.param, {(one["kind"], one["metadata"]["name"]): one for one in objects}


@pytest.fixture
def disks(built):
    return built[1]["StatefulSet", "perdure-disk"]["spec"]


@pytest.fixture
def main(built):
    return built[1]["Deployment", "perdure"]["spec"]


def pod(workload):
    return workload["template"]["spec"]


def every_container(workload):
    return pod(workload).get("initContainers", []) + pod(workload)["containers"]


@pytest.mark.parametrize("folder", [*(f"overlays/{name}" for name in OVERLAYS), "create"])
def test_every_object_fits_the_schema_of_its_kind(folder):
    validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate brings it")
    for one in build(folder):
        validate.validate(one, validate.latest_version(), strict=True)


# Disks ----------------------------------------------------------------------------------------------------


def test_no_update_ends_a_disk_and_all_start_at_once(disks):
    assert disks["updateStrategy"] == {"type": "OnDelete"}
    assert disks["podManagementPolicy"] == "Parallel"
    assert disks["replicas"] == N


def test_a_drain_stops_until_the_first_disk_is_a_member_again(built, disks):
    """A pod's budget counts ready pods, and a blank disk's pod is ready only once its condition says member."""
    budget = built[1]["PodDisruptionBudget", "perdure-disk"]["spec"]
    assert budget == {"maxUnavailable": 1, "selector": {"matchLabels": DISK}}
    assert pod(disks)["readinessGates"] == [{"conditionType": "perdure/member"}]
    assert disks["template"]["metadata"]["labels"].items() >= DISK.items()


def test_a_blank_disk_is_reached_though_it_is_not_ready(built):
    service = built[1]["Service", "perdure-disk"]["spec"]
    assert service["publishNotReadyAddresses"] is True
    assert service["clusterIP"] == "None"


def test_a_zone_may_go(built, disks):
    (spread,) = pod(disks)["topologySpreadConstraints"]
    assert spread["topologyKey"] == "topology.kubernetes.io/zone"
    assert spread["labelSelector"] == {"matchLabels": DISK}
    if built[0] == "simulated":  # a rehearsal, on whatever there is
        return
    assert (spread["maxSkew"], spread["whenUnsatisfiable"]) == (1, "DoNotSchedule")
    assert spread["minDomains"] == ZONES
    assert -(-N // spread["minDomains"]) <= N - K


def test_two_disks_are_never_on_one_machine(built, disks):
    if built[0] == "simulated":
        assert "affinity" not in pod(disks)
        return
    (rule,) = pod(disks)["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert rule == {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": DISK}}


def test_a_silent_node_keeps_its_disk(disks):
    patient = {one["key"] for one in pod(disks)["tolerations"] if "tolerationSeconds" not in one}
    assert patient == {"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"}


def test_autoscalers_let_disks_be(disks):
    notes = disks["template"]["metadata"]["annotations"]
    assert notes["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"
    assert notes["karpenter.sh/do-not-disrupt"] == "true"
    assert pod(disks)["priorityClassName"] == "perdure-disk"


def test_each_platform_asks_for_its_hardware(built, disks):
    wanted = {
        "nitro": {"aws.ec2.nitro/nitro_enclaves": "1", "hugepages-2Mi": "4Gi"},
        "sev-snp": {"sev-snp.amd.com/esids": "1", "squat.ai/sev-snp": "1"},
        "tdx": {"tdx.intel.com/keys": "1", "squat.ai/kvm": "1"},
        "simulated": {},
    }[built[0]]
    limits = {}
    for container in every_container(disks):
        limits |= container.get("resources", {}).get("limits", {})
    assert {name: value for name, value in limits.items() if "/" in name or "huge" in name} == wanted


def test_only_nitro_gives_up_the_runtimes_filter_of_system_calls(built, disks):
    """The filter refuses AF_VSOCK, without which nobody reaches an enclave."""
    filters = {one.get("securityContext", {}).get("seccompProfile", {}).get("type") for one in every_container(disks)}
    assert filters == ({"Unconfined"} if built[0] == "nitro" else {None})
    assert pod(disks)["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}


# The main program -----------------------------------------------------------------------------------------


def test_there_is_one_main_program_at_a_time(main):
    assert main["replicas"] == 1
    assert main["strategy"] == {"type": "Recreate"}


def test_a_stop_has_time_to_flush(main):
    assert pod(main)["terminationGracePeriodSeconds"] >= 120


def test_probes_ask_where_the_main_program_answers(main):
    (container,) = pod(main)["containers"]
    assert container["ports"] == [{"name": "metrics", "containerPort": 9464}]
    probes = {kind: container[kind]["httpGet"] for kind in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert probes == {
        "startupProbe": {"path": "/healthz", "port": "metrics"},
        "livenessProbe": {"path": "/healthz", "port": "metrics"},
        "readinessProbe": {"path": "/readyz", "port": "metrics"},
    }


def test_prometheus_finds_it(main):
    notes = main["template"]["metadata"]["annotations"]
    assert {name: value for name, value in notes.items() if name.startswith("prometheus.io/")} == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": "9464",
        "prometheus.io/path": "/metrics",
    }


def test_a_main_program_that_was_fenced_is_held(main):
    """The mark lies on a volume that outlives the container and goes with the pod."""
    (container,) = pod(main)["containers"]
    config_file, mark = container["args"]
    assert "command" not in container  # the image's entry point is serve-once
    mounts = {one["mountPath"]: one["name"] for one in container["volumeMounts"]}
    volumes = {one["name"]: one for one in pod(main)["volumes"]}
    assert "emptyDir" in volumes[mounts[mark.rpartition("/")[0]]]
    assert config_file == "/etc/perdure/perdure.toml"


def test_no_key_is_in_what_is_applied(built):
    assert not [name for name in built[1] if name[0] == "Secret"]
    for workload in ("StatefulSet", "perdure-disk"), ("Deployment", "perdure"):
        volumes = pod(built[1][workload]["spec"]).get("volumes", [])
        secrets = {one["secret"]["secretName"] for one in volumes if "secret" in one}
        allowed = {"Deployment": {"perdure-authority"}, "StatefulSet": {"perdure-simulated"}}[workload[0]]
        assert secrets <= allowed


def test_the_key_is_copied_into_memory_and_never_onto_a_disk(main):
    volumes = {one["name"]: one for one in pod(main)["volumes"]}
    assert volumes["files"]["emptyDir"]["medium"] == "Memory"
    assert "install -m 0400 /in/authority/authority.key" in pod(main)["initContainers"][0]["args"][0]


def test_the_configuration_is_one_that_perdure_reads():
    path = HERE / "perdure.toml"
    found = config.parse(path.read_bytes(), path)
    assert (found.array.disks, found.array.threshold) == (N, K)
    assert found.addresses == tuple(f"tcp:perdure-disk-{seat}.perdure-disk:7001" for seat in range(N))
    assert found.serve.listen == "unix:/run/perdure/nbd.sock"
    assert found.array.array_id is None


# Everything -----------------------------------------------------------------------------------------------


def test_no_container_has_more_rights_than_it_needs(built, disks, main):
    roots = {"nitro": {"enclave"}, "sev-snp": {"disk"}, "tdx": {"disk"}, "simulated": set()}[built[0]]
    for workload in (disks, main):
        assert pod(workload)["automountServiceAccountToken"] is False
        assert pod(workload)["securityContext"]["runAsNonRoot"] is True
        for container in every_container(workload):
            rights = container["securityContext"]
            assert rights["allowPrivilegeEscalation"] is False
            assert rights["readOnlyRootFilesystem"] is True
            assert rights["capabilities"] == {"drop": ["ALL"]}
            assert (rights.get("runAsUser") == 0) is (container["name"] in roots)
            assert "privileged" not in rights


def test_only_main_programs_reach_disks_and_disks_reach_nobody(built, main):
    policies = {name: one["spec"] for (kind, name), one in built[1].items() if kind == "NetworkPolicy"}
    nothing = policies["perdure-nothing"]
    assert nothing == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    disk = policies["perdure-disk"]
    assert disk["podSelector"] == {"matchLabels": DISK}
    assert "egress" not in disk
    assert disk["ingress"] == [
        {"from": [{"podSelector": {"matchLabels": {"perdure/reaches-disks": "true"}}}], "ports": [{"port": 7001}]}
    ]
    assert main["template"]["metadata"]["labels"]["perdure/reaches-disks"] == "true"


def test_creating_is_tried_once():
    (job,) = build("create")
    assert job["spec"]["backoffLimit"] == 0
    assert pod(job["spec"])["restartPolicy"] == "Never"
