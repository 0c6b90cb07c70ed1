import pytest

from perdure.errors import Misuse
from perdure.manifest import form

from .support import tagged


def test_equal_contents_have_one_canonical_form():
    assert form.canonical({"b": [1, True], "a": "\u00e9"}) == b'{"a":"\\u00e9","b":[1,true]}'


def test_the_tagged_hash_is_that_of_bip_340():
    assert form.tagged(b"perdure/manifest/1", b"x") == tagged(b"perdure/manifest/1", b"x")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"a":1,"a":2}', "the key 'a' is there twice"),
        (b'{"b":{"a":1,"a":1}}', "the key 'a' is there twice"),
        (b'{"a":' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"a":' + b"[" * 5990, "not JSON"),
        (b'{"a":"' + b"x" * 6000 + b'"}', "more than 6000 bytes"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_what_is_no_object_is_misuse(data, said):
    with pytest.raises(Misuse, match=said):
        form.read_object(data, "thing", bytes_max=6000)


def test_an_unknown_key_is_named_before_a_missing_one():
    with pytest.raises(Misuse, match="unknown key 'nmae'"):
        form.keys({"nmae": 1}, "thing", {"name"})
    with pytest.raises(Misuse, match="lacks the key 'name'"):
        form.keys({}, "thing", {"name"}, {"more"})
    assert form.keys({"name": 1, "more": 2}, "thing", {"name"}, {"more"}) == {"name": 1, "more": 2}


@pytest.mark.parametrize(
    "refused",
    [
        lambda: form.items({}, "thing", count_max=1),
        lambda: form.items([1, 2], "thing", count_max=1),
        lambda: form.text(1, "thing"),
        lambda: form.number(True, "thing", least=0, most=2),
        lambda: form.number(3, "thing", least=0, most=2),
        lambda: form.number(1.0, "thing", least=0, most=2),
        lambda: form.hexadecimal("AB", "thing", length=1),
        lambda: form.hexadecimal("abc", "thing", length=1),
        lambda: form.hexadecimal(None, "thing", length=1),
        lambda: form.hexadecimal("\u0661\u0662", "thing", length=1),
        lambda: form.name("Node", "thing"),
        lambda: form.name("node\n", "thing"),
        lambda: form.name("", "thing"),
        lambda: form.name(None, "thing"),
        lambda: form.one_of("c", "thing", ("a", "b")),
        lambda: form.one_of([], "thing", ("a", "b")),
    ],
)
def test_a_value_of_another_form_is_misuse_that_names_it(refused):
    with pytest.raises(Misuse, match=r"^The thing is .+[.]$"):
        refused()
