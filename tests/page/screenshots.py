"""The pictures of the page in docs/screenshots: `python -m tests.page.screenshots` makes them of real arrays.

With `story` or `clone` only those of one of the two arrays.

Four states, each at two widths, one of them dark: healthy, two disks killed, a rebuild, another disk in a member's
place. Takes two minutes, most of which is work that the page shall show.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from tests.cli.rig import Rig
from tests.lying_host.host import LyingHost
from tests.page import shown
from tests.page.browser import Browser, Page

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "docs" / "screenshots"
ZONES = ("oslo", "oslo", "paris", "paris", "rome")
WIDE, NARROW = 1280, 390
NARROW_HEIGHT = 1500
BYTES_MAX = 200_000
SETTLE_S = 25.0
"""Of work, so that there is something in the histograms."""


@contextmanager
def pages(browser: Browser, url: str, *, is_wide_dark: bool) -> Iterator[dict[int, Page]]:
    """The page at both widths, one light and one dark."""
    made = {
        WIDE: browser.page(width=WIDE, is_dark=is_wide_dark),
        NARROW: browser.page(width=NARROW, height=844, is_dark=not is_wide_dark, scale=2),
    }
    for page in made.values():
        page.open(url)
    yield made
    for page in made.values():
        assert not page.complaints, page.complaints
        page.close()


def keep(name: str, made: dict[int, Page]) -> None:
    """Both pictures, in few colours: they are of a drawn page."""
    for width, page in made.items():
        picture = Image.open(io.BytesIO(page.picture(NARROW_HEIGHT if width == NARROW else 4000)))
        path = PICTURES / f"{name}-{width}-{page.scheme}.png"
        few = picture.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        few.save(path, optimize=True)
        size = path.stat().st_size
        assert size <= BYTES_MAX, f"{path} has {size} bytes"
        print(f"{path.relative_to(ROOT)}: {size} bytes")


def story(browser: Browser, rig: Rig) -> None:
    """Healthy, degraded, rebuilding: one array's life."""
    url = shown.up(rig, size="64M", zones=ZONES)
    with shown.clients(rig):
        with pages(browser, url, is_wide_dark=False) as made:
            time.sleep(SETTLE_S)
            keep("healthy", made)
        with pages(browser, url, is_wide_dark=True) as made:
            rig.kill_disk(1)
            rig.kill_disk(3)
            made[WIDE].wait_for("document.title.startsWith('[U_U_U]')")
            time.sleep(SETTLE_S)
            keep("degraded", made)
        with pages(browser, url, is_wide_dark=False) as made:
            words = [sys.executable, "-m", "perdure.cli.main", "replace", "1", "--limit", "2M"]
            with subprocess.Popen(words, env=rig.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as replace:
                rig.wait_for(lambda status: any(repair["done_bytes"] > 20 << 20 for repair in status["repairs"]))
                time.sleep(2)
                keep("rebuilding", made)
                replace.terminate()


def clone(browser: Browser, host: LyingHost) -> None:
    """A host answers with another disk in the place of a member."""
    shown.with_page(host.directory, ZONES)
    host.mount()
    with shown.clients(host, sectors=512), pages(browser, shown.url(host.directory), is_wide_dark=True) as made:
        time.sleep(SETTLE_S / 2)
        host.proxies[3].present(host.disk(2))
        host.wait_for(lambda status: status["exit_code"] == 3)
        made[NARROW].wait_for("!document.getElementById('alarm').hidden")
        time.sleep(SETTLE_S / 2)
        keep("clone", made)


def main() -> None:
    """Make all eight."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="perdure-") as name, Browser(Path(name)) as browser:
        wanted, place = sys.argv[1:] or ["story", "clone"], Path(name)
        if "story" in wanted:
            (place / "story").mkdir()
            with Rig(place / "story") as rig:
                story(browser, rig)
        if "clone" in wanted:
            (place / "clone").mkdir()
            with LyingHost(place / "clone", disks=5, threshold=3) as host:
                clone(browser, host)


if __name__ == "__main__":
    main()
