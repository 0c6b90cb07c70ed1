"""The configuration file: strict, with a sentence for each mistake that names the key."""

import tomllib

import pytest

from perdure.errors import Misuse
from perdure.service.site import config, template
from perdure.service.site.config import Acknowledgements, Attest, _listen

GOOD = template.render(
    disks=3,
    threshold=2,
    size="16M",
    addresses=("unix:disk-0.sock", "tcp:127.0.0.1:7001", "vsock:16:7002"),
    listen="unix:nbd.sock",
    dead_after_ms=10_000,
)
ID = "0f" * 32


def parse(text, path):
    return config.parse(text.encode() if isinstance(text, str) else text, path / "perdure.toml")


def spoilt(old, new):
    assert old in GOOD
    return GOOD.replace(old, new)


def test_the_template_is_a_configuration_without_an_id(tmp_path):
    found = parse(GOOD, tmp_path)
    assert found.array == config.ArraySection(
        None, tmp_path / "authority.key", tmp_path / "policy.json", 3, 2, 16 << 20
    )
    assert found.addresses == (f"unix:{tmp_path}/disk-0.sock", "tcp:127.0.0.1:7001", "vsock:16:7002")
    assert found.serve.listen == f"unix:{tmp_path}/nbd.sock"
    assert found.serve.control == tmp_path / "control.sock"
    assert (found.serve.attest, found.serve.dead_after_ms, found.serve.answer_ms_max) == (Attest.FLUSH, 10_000, 5000)


def test_flushes_rest_on_evidence_unless_the_file_says_chains(tmp_path):
    assert parse(GOOD, tmp_path).serve.acknowledgements is Acknowledgements.EVIDENCE
    line = 'acknowledgements = "evidence"'
    assert parse(spoilt(line, ""), tmp_path).serve.acknowledgements is Acknowledgements.EVIDENCE
    chains = parse(spoilt(line, 'acknowledgements = "chains"'), tmp_path)
    assert chains.serve.acknowledgements is Acknowledgements.CHAINS
    for value in ("true", '"links"', "3", "[]"):
        with pytest.raises(Misuse, match=r"'serve\.acknowledgements' must be one of 'evidence', 'chains'"):
            parse(spoilt(line, f"acknowledgements = {value}"), tmp_path)


def test_the_loader_says_which_signed_program_it_is(tmp_path):
    found = parse(spoilt("disks = 3", f'disks = 3\nprogram = "7:{ID}"'), tmp_path)
    assert found.array.program == (7, bytes.fromhex(ID))
    assert parse(GOOD, tmp_path).array.program.version == 0


def test_zones_are_names_one_for_each_address(tmp_path):
    assert parse(GOOD, tmp_path).zones == ()
    named = spoilt("[serve]", 'zones = ["paris", "oslo", "paris"]\n[serve]')
    assert parse(named, tmp_path).zones == ("paris", "oslo", "paris")
    for value, what in (
        ('["paris"]', "one name for each"),
        ('["a", "b", ""]', "a list of names"),
        ("3", "a list of names"),
    ):
        with pytest.raises(Misuse, match=f"'disks.zones' must (be|have) {what}"):
            parse(spoilt("[serve]", f"zones = {value}\n[serve]"), tmp_path)


def test_a_folder_of_collateral_may_be_named(tmp_path):
    assert parse(GOOD, tmp_path).collateral is None
    assert parse(spoilt("[serve]", 'collateral = "more"\n[serve]'), tmp_path).collateral == tmp_path / "more"
    with pytest.raises(Misuse, match=r"'disks\.collateral' must be text"):
        parse(spoilt("[serve]", "collateral = 3\n[serve]"), tmp_path)


def test_the_template_says_which_inputs_are_trusted():
    assert "The trusted inputs are three: the key, the array's id and the policy." in GOOD
    assert "so another policy or another array under this id is refused" in " ".join(GOOD.replace("#", "").split())


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("threshold =", "treshold =", "'array.treshold' is not a key that Perdure knows (did you mean 'threshold'?)"),
        ("disks = 3", "discs = 3", "'array.discs' is not a key that Perdure knows (did you mean 'disks'?)"),
        (
            "disks = 3",
            "xyz = 3",
            "are id, key-file, policy-file, disks, threshold, size, program, sealing)",
        ),
        ("[serve]", "[service]", "the table [service] is not a key that Perdure knows (did you mean 'serve'?)"),
        ("disks = 3", "", "'array.disks' is missing"),
        ("attest =", "# attest =", "'serve.attest' is missing"),
        ("disks = 3", 'disks = "3"', "'array.disks' must be a whole number above 0"),
        ("disks = 3", "disks = true", "'array.disks' must be a whole number above 0"),
        ("disks = 3", "disks = 0", "'array.disks' must be a whole number above 0"),
        ('size = "16M"', "size = 1.5", "'array.size' must be a size: a number of bytes"),
        ('size = "16M"', 'size = "16 apples"', "'array.size' must be a size, but '16 apples' is not a size"),
        ('size = "16M"', "size = -4096", "'array.size' must be a size"),
        ("disks = 3", f'disks = 3\nid = "{ID[1:]}"', "'array.id' must be the array's id as `create` printed it"),
        ("disks = 3", f'disks = 3\nprogram = "0:{ID}"', "'array.program' must be the version and the digest of a man"),
        ("disks = 3", f'disks = 3\nprogram = "{1 << 63}:{ID}"', "'array.program' must be the version and the digest"),
        ("disks = 3", "disks = 3\nprogram = 3", "'array.program' must be the version and the digest of a manifest"),
        ("disks = 3", f'disks = 3\nid = "{ID.upper()}"', "'array.id' must be the array's id as `create` printed it"),
        ('key-file = "authority.key"', 'key-file = ""', "'array.key-file' must be text that is not empty"),
        ('"tcp:127.0.0.1:7001"', '"7001"', "'disks.addresses' has not an address: '7001'"),
        ('"tcp:127.0.0.1:7001"', "7001", "'disks.addresses' must be a list of addresses"),
        ('"tcp:127.0.0.1:7001"', '"vsock:16:7002"', "'disks.addresses' names an address twice"),
        ('listen = "unix:nbd.sock"', 'listen = "nbd.sock"', "'serve.listen' must be an address to serve at"),
        ('attest = "flush"', 'attest = "never"', "'serve.attest' must be one of 'flush', 'every-read'"),
        ("answer-ms-max = 5000", "answer-ms-max = 5.0", "'serve.answer-ms-max' must be a whole number above 0"),
        ("[array]", "[array", "it is not TOML: "),
        ("disks = 3", "disks = 3\ndisks = 3", "it is not TOML: "),
        ('"unix:disk-0.sock"', f'"unix:{"d" * 108}"', "is longer than the 107 bytes that Linux allows"),
    ],
)
def test_each_mistake_has_a_sentence_that_names_the_key(tmp_path, old, new, what):
    with pytest.raises(Misuse) as raised:
        parse(spoilt(old, new), tmp_path)
    sentence = str(raised.value)
    assert what in sentence
    assert sentence.startswith(f"In {tmp_path}/perdure.toml: ")
    assert sentence.endswith("Nothing was changed; correct the file.")
    assert "\n" not in sentence


def test_what_is_no_text_or_no_file_or_too_long(tmp_path):
    with pytest.raises(Misuse, match="it is not UTF-8 text"):
        parse(b"\xff", tmp_path)
    with pytest.raises(Misuse, match="it is no configuration"):
        parse(b"#" * (config.CONFIG_BYTES_MAX + 1), tmp_path)
    with pytest.raises(Misuse, match=r"cannot be read \(No such file or directory\)"):
        config.load(tmp_path / "absent.toml")


def test_a_table_that_is_none(tmp_path):
    with pytest.raises(Misuse, match=r"the table \[serve\] must be a table"):
        parse(GOOD[: GOOD.index("[serve]")].replace("[array]", "serve = 3\n[array]"), tmp_path)


@pytest.mark.parametrize(
    ("text", "size"),
    [("4096", 4096), ("1K", 1024), ("256M", 256 << 20), ("1GiB", 1 << 30), ("2TB", 2 << 40), (" 7 ", 7)],
)
def test_sizes(text, size):
    assert config.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1", "1.5G", "1 M", "256m", "0x10", "1KK", "9" * 30])
def test_what_is_no_size(text):
    with pytest.raises(Misuse, match="is not a size"):
        config.parse_size(text)


# Writing a value ------------------------------------------------------------------------------------------


def test_an_id_is_added_once_and_comments_stay(tmp_path):
    once = template.with_value(GOOD, "array", "id", ID)
    assert parse(once, tmp_path).array.array_id == bytes.fromhex(ID)
    assert set(GOOD.splitlines()) < set(once.splitlines())
    assert template.with_value(once, "array", "id", "ab" * 32).count("\nid = ") == 1


def test_a_value_is_replaced_only_in_its_table():
    text = '[a]\nkey = "1"\n[b] # note\nkey = "2"\n'
    assert tomllib.loads(template.with_value(text, "b", "key", "3")) == {"a": {"key": "1"}, "b": {"key": "3"}}


@pytest.mark.parametrize(
    "text", ['array.size = "1"\n', 'array = { size = "1" }\n', '[array]\nx = """\nid = "1"\n"""\n']
)
def test_a_file_that_is_written_in_another_way_is_left_to_its_author(text):
    with pytest.raises(Misuse, match="write it there yourself"):
        template.with_value(text, "array", "id", ID)


@pytest.mark.parametrize("place", ["0.0.0.0:10809", "10.0.0.1:10809", "[::]:10809", "example.org:1"])
def test_plaintext_is_served_to_this_machine_only(place):
    with pytest.raises(Misuse, match="loopback"):
        _listen(f"tcp:{place}")


@pytest.mark.parametrize("place", ["127.0.0.1:10809", "localhost:1", "[::1]:10809"])
def test_loopback_is_served(place):
    assert _listen(f"tcp:{place}") == f"tcp:{place}"


# What is optional -----------------------------------------------------------------------------------------


def test_without_the_optional_keys_nothing_is_mended_or_told_by_itself(tmp_path):
    found = parse(GOOD, tmp_path)
    assert (found.spares, found.repair, found.serve.http) == ((), config.RepairSection(), None)
    assert (found.tell.webhook, found.tell.log) == (None, config.LogFormat.HUMAN)


def test_every_optional_line_of_the_template_is_one_that_works(tmp_path):
    lines = [line.removeprefix("# ") if ' = "' in line or " = [" in line else line for line in GOOD.splitlines()]
    text = "\n".join(line for line in lines if not line.startswith(("zones", "collateral")))
    found = parse(text, tmp_path)
    assert found.spares == ("tcp:10.0.0.9:7001",)
    assert found.serve.http == "127.0.0.1:9464"
    assert found.repair == config.RepairSection(30 * 86_400, 50 << 20, 100 << 20)
    assert found.tell.webhook == "https://example.com/perdure"


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("[repair]", '[repair]\nscrub-every = "30"', "'repair.scrub-every' must be a time such as"),
        ("[repair]", '[repair]\nscrub-every = "0d"', "'repair.scrub-every' must be a time such as"),
        ("[repair]", "[repair]\nscrub-every = 30", "'repair.scrub-every' must be a time such as"),
        ("[repair]", '[repair]\nscrub-rate = "1K"', "'repair.scrub-rate' must be at least 256K bytes a second"),
        ("[repair]", '[repair]\nreplace-rate = "x"', "'repair.replace-rate' must be a size"),
        ("[repair]", '[repair]\nscrub = "1d"', "'repair.scrub' is not a key that Perdure knows"),
        ("[tell]", '[tell]\nwebhook = "ftp://a/b"', "'tell.webhook' must be a URL that begins with http"),
        ("[tell]", '[tell]\nwebhook = "http:///b"', "'tell.webhook' must be a URL that begins with http"),
        ("[tell]", '[tell]\nwebhook = "http://[::1/b"', "'tell.webhook' must be a URL that begins with http"),
        ("[tell]", '[tell]\nwebhook = "http://a:99999/b"', "'tell.webhook' must be a URL that begins with http"),
        ("[tell]", '[tell]\nwebhook = "http://a:0/b"', "'tell.webhook' must be a URL that begins with http"),
        ("[tell]", '[tell]\nwebhook = "http://a:x/b"', "'tell.webhook' must be a URL that begins with http"),
        ("[tell]", '[tell]\nwebhook = "http://a/b c"', "'tell.webhook' must be a URL that begins with http"),
        ("[tell]", '[tell]\nwebhook = "http://a/\\u001b[2J"', "'tell.webhook' must be a URL that begins with http"),
        ("[tell]", '[tell]\nwebhook = "https://ops:hunter2@a/b"', "'tell.webhook' must have no name and password"),
        ("[tell]", '[tell]\nwebhook = "https://ops@a/b"', "'tell.webhook' must have no name and password"),
        ('log = "human"', 'log = "xml"', "'tell.log' must be one of 'human', 'json'"),
        ("[serve]", '[serve]\nhttp = "9464"', "'serve.http' must be HOST:PORT"),
        ("[serve]", '[serve]\nhttp = "h:99999"', "'serve.http' must be HOST:PORT"),
        ("[serve]", '[serve]\nhttp = ":80"', "'serve.http' must be HOST:PORT"),
        ("[serve]", 'spares = "a"\n[serve]', "'disks.spares' must be a list of addresses"),
        ("[serve]", 'spares = ["udp:1"]\n[serve]', "'disks.spares' has"),
        ("[serve]", 'spares = ["unix:disk-0.sock"]\n[serve]', "'disks.spares' names an address of 'disks.addresses'"),
    ],
)
def test_a_mistake_in_an_optional_key_names_it(tmp_path, old, new, sentence):
    with pytest.raises(Misuse) as caught:
        parse(spoilt(old, new), tmp_path)
    assert sentence in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("45m", 2700), ("12h", 43_200), ("30d", 2_592_000)])
def test_times_have_a_unit(tmp_path, text, seconds):
    assert parse(spoilt("[repair]", f'[repair]\nscrub-every = "{text}"'), tmp_path).repair.scrub_every_s == seconds


def test_an_empty_list_of_spares_is_none(tmp_path):
    assert parse(spoilt("[serve]", "spares = []\n[serve]"), tmp_path).spares == ()
