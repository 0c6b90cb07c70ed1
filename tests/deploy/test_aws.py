"""The Terraform files and what an instance runs first: parsed and looked at here, never planned or applied."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.deploy.files import DEPLOY, tool

hcl2 = pytest.importorskip("hcl2", reason="python-hcl2 is not here; pip install python-hcl2 brings it")

HERE = DEPLOY / "aws"
VALUES = {
    "enclave.memory_mib": "4096",
    "enclave.cpu_count": "2",
    "files.bucket": "bucket",
    "files.eif_key": "disk.eif",
    "files.eif_sha256": "aa" * 32,
    "files.eif_pcr0": "bb" * 48,
    "files.bundle_key": "bundle.tar",
    "files.bundle_sha256": "cc" * 32,
}


def bare(value):
    """What the parser gives, without the quotes and marks that it keeps for writing files again."""
    if isinstance(value, dict):
        return {bare(key): bare(item) for key, item in value.items() if not key.startswith("__")}
    if isinstance(value, list):
        return [bare(item) for item in value]
    return value[1:-1] if isinstance(value, str) and value[:1] == value[-1:] == '"' else value


@pytest.fixture(scope="module")
def blocks():
    """All blocks of all files: kind -> the list of them."""
    found: dict[str, list] = {}
    for path in sorted(HERE.glob("*.tf")):
        with path.open() as file:
            for kind, items in bare(hcl2.load(file)).items():
                found.setdefault(kind, []).extend(items)
    return found


@pytest.fixture(scope="module")
def resources(blocks):
    """(type, name) -> what is said of it."""
    return {
        (kind, name): body for one in blocks["resource"] for kind, named in one.items() for name, body in named.items()
    }


@pytest.fixture
def template(resources):
    return resources["aws_launch_template", "disk"]


@pytest.fixture
def instances(resources):
    return resources["aws_instance", "disk"]


def test_whatever_is_spoken_of_is_declared(blocks, resources):
    text = "".join(path.read_text() for path in HERE.glob("*.tf"))
    variables = {name for one in blocks["variable"] for name in one}
    assert set(re.findall(r"\bvar\.(\w+)", text)) == variables
    assert set(re.findall(r"\blocal\.(\w+)", text)) == {name for one in blocks["locals"] for name in one}
    assert set(re.findall(r"(?<!data\.)\b(aws_\w+)\.(\w+)", text)) <= resources.keys()
    data = {(kind, name) for one in blocks["data"] for kind, named in one.items() for name in named}
    assert set(re.findall(r"\bdata\.(aws_\w+)\.(\w+)", text)) == data


def test_instances_have_enclaves_and_new_metadata_only(template):
    assert template["enclave_options"] == [{"enabled": True}] or template["enclave_options"] == [{"enabled": "true"}]
    (metadata,) = template["metadata_options"]
    assert (metadata["http_tokens"], metadata["http_put_response_hop_limit"]) == ("required", 1)


def test_no_login_and_no_key(template, instances):
    text = "".join(path.read_text() for path in HERE.iterdir() if path.is_file() and path.suffix != ".md")
    assert "key_name" not in template.keys() | instances.keys()
    for word in ("authority.key", "private_key", "ssh", "associate_public_ip_address"):
        assert word not in text


def test_only_the_main_program_reaches_a_relay(resources):
    rules = {kind: body for (kind, _), body in resources.items() if kind.endswith("gress_rule")}
    assert len(rules) == sum(kind.endswith("gress_rule") for kind, _ in resources) == 2
    inward = rules["aws_vpc_security_group_ingress_rule"]
    assert inward["referenced_security_group_id"] == "${var.main_security_group_id}"
    assert (inward["ip_protocol"], inward["from_port"], inward["to_port"]) == ("tcp", 7001, 7001)
    outward = rules["aws_vpc_security_group_egress_rule"]
    assert outward["prefix_list_id"] == "${var.s3_prefix_list_id}"
    assert (outward["ip_protocol"], outward["from_port"], outward["to_port"]) == ("tcp", 443, 443)
    assert not any(key.startswith("cidr") for body in rules.values() for key in body)
    assert not {"ingress", "egress"} & resources["aws_security_group", "disk"].keys()


def test_an_instance_may_read_two_objects_and_no_more(blocks):
    documents = {name: body for one in blocks["data"] for name, body in one.get("aws_iam_policy_document", {}).items()}
    (statement,) = documents["read"]["statement"]
    assert statement["actions"] == ["s3:GetObject"]
    assert "[var.files.eif_key, var.files.bundle_key]" in str(statement["resources"])


def test_nothing_replaces_or_ends_a_disk_by_itself(resources, template, instances):
    assert not any("autoscaling" in kind or "fleet" in kind for kind, _ in resources)
    (life,) = instances["lifecycle"]
    assert life["prevent_destroy"] in (True, "true")
    assert {"launch_template", "ami", "user_data"} <= {str(name).strip("${}") for name in life["ignore_changes"]}
    for name in ("disable_api_stop", "disable_api_termination"):
        assert template[name] in (True, "true")


def test_a_zone_with_more_disks_than_may_be_lost_is_refused(resources, instances):
    (life,) = instances["lifecycle"]
    (check,) = life["precondition"]
    assert check["condition"] == "${local.crowd <= length(var.seats) - var.threshold}"
    assert resources["aws_placement_group", "disks"]["strategy"] == "spread"


def test_a_seat_keeps_its_address(instances):
    assert instances["private_ip"] == "${each.value.private_ip}"


# What an instance runs first ------------------------------------------------------------------------------


@pytest.fixture
def user_data(tmp_path):
    """The script as Terraform would fill it in."""
    text = (HERE / "user-data.sh.tftpl").read_text()
    script = re.sub(r"\$\{([^}]*)\}", lambda found: VALUES[found[1]], text)
    path = tmp_path / "user-data.sh"
    path.write_text(script)
    return path


def test_shellcheck_finds_nothing_in_the_user_data(user_data):
    done = subprocess.run([tool("shellcheck", "shellcheck"), user_data], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_what_is_downloaded_is_compared_before_it_is_used(user_data):
    lines = [line for line in user_data.read_text().splitlines() if line.strip()]
    downloads = [at for at, line in enumerate(lines) if "s3 cp" in line]
    assert len(downloads) == 1  # in `fetch`, whose next line compares
    assert "sha256sum --check --strict" in lines[downloads[0] + 1]
    fetches = {line.split()[1].strip("'"): line.split()[2].strip("'") for line in lines if line.startswith("fetch '")}
    assert fetches == {"disk.eif": "aa" * 32, "bundle.tar": "cc" * 32}
    assert lines[1 + [line.startswith("#") for line in lines[1:]].index(False)] == "set -euo pipefail"


def test_the_enclave_gets_every_setting_that_it_needs(user_data):
    needed = re.search(r"^for name in (.*); do$", (DEPLOY / "systemd/run-enclave").read_text(), re.M)[1].split()
    found = re.search(r"perdure/enclaves/disk\.env <<'ENV'\n(.*?)ENV\n", user_data.read_text(), re.S)[1]
    assert [line.partition("=")[0] for line in found.splitlines()] == needed
    assert "EIF_PCR0=" + "bb" * 48 in found


def test_the_user_data_fits_into_what_ec2_takes(user_data):
    assert len(user_data.read_bytes()) < 16_384
