"""What is installed is what was pinned: every dependency stands in its lock, with a version and its hashes.

Whoever installs from a lock goes without a dependency that it lacks, or gets one that no hash covers.
"""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RUN, DEVELOP = PROJECT["dependencies"], PROJECT["optional-dependencies"]["dev"]
LOCKS = {"requirements.lock": RUN, "requirements-dev.lock": [*RUN, *DEVELOP]}
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
PINNED = re.compile(rf"({NAME.pattern})(?:\[[^]]*])?==[^\s*;#]+ [^#]*--hash=sha256:[0-9a-f]{{64}}(?!\S)")


def normalised(name):
    """PyPA's "Names and normalization"."""
    return re.sub(r"[-_.]+", "-", name).lower()


def name_of(requirement):
    return normalised(NAME.match(requirement)[0])


def pinned(lock):
    """The names that `lock` pins to one version, with a hash at least."""
    lines = lock.replace("\\\n", " ").splitlines()  # a line goes on where it ends in a backslash
    return {normalised(found[1]) for line in lines if (found := PINNED.match(line))}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_dependency_is_pinned(lock):
    wanted = {name_of(requirement) for requirement in LOCKS[lock]}
    assert len(wanted) == len(LOCKS[lock]) > 0
    missing = sorted(wanted - pinned((ROOT / lock).read_text()))
    assert missing == [], f"{lock} does not pin {', '.join(missing)}: make lock"


@pytest.mark.parametrize("lock", LOCKS)
def test_everything_in_a_lock_has_a_hash(lock):
    text = (ROOT / lock).read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith((" ", "\t", "#", "-"))]
    assert len(lines) == len(pinned(text)) > 0
    assert {name_of(line) for line in lines} == pinned(text)


def test_a_version_without_a_hash_a_range_and_a_comment_are_no_pins():
    digest = f"    --hash=sha256:{'0' * 64}"
    good = f"One_two.three==1.0 \\\n{digest} \\\n{digest}\n    # via perdure\n"
    good += f"four[extra]==2 ; python_version > '3' \\\n{digest}"
    assert pinned(good) == {"one-two-three", "four"}
    for bad in (
        "five==1.0\n",
        "five==1.0 \\\n    --hash=sha256:00\n",
        "five==1.0 \\\n    --hash=md5:0123456789abcdef\n",
        f"five==1.0\n    # {digest}, formerly\n",
        f"five==1.0  # {digest}\n",
        f"five==1.0 \\\n{digest}00\n",
        f"five>=1.0 \\\n{digest}\n",
        f"five==1.* \\\n{digest}\n",
        f"five \\\n{digest}\n",
        f"# five==1.0 \\\n{digest}\n",
        f"five==1.0\n{good}",
    ):
        assert "five" not in pinned(bad), bad


def test_names_are_compared_without_case_and_punctuation():
    assert [name_of(text) for text in ("pytest_cov>=6", "Ruff", "a.-b[x]~=1; python_version<'4'")] == [
        "pytest-cov",
        "ruff",
        "a-b",
    ]
