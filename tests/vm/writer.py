"""Somebody in the machine who writes files of random bytes, syncs each, and only then says its digest.

    writer = Writer(guest)
    writer.start()
    writer.wait_for(10)
    guest.cut_power(), boot, mount ...
    writer.compare()

What was said is what a file system has promised. `compare` fails unless all of it is there and whole.
"""

from __future__ import annotations

import re

from .guest import Guest

ROOT = "/mnt"
_FUNCTION = f"""write_files() {{
    number=$1
    until [ -e /tmp/stop ]; do
        file={ROOT}/$number
        dd if=/dev/urandom of=$file bs=4k count=$((RANDOM % 16 + 1)) conv=fsync status=none && sync {ROOT} || break
        digest=$(sha256sum < $file) || break
        echo "synced $number ${{digest%% *}}"
        number=$((number + 1))
    done
    [ -e /tmp/stop ] || echo "failed $number"
}}"""
_SYNCED = re.compile(r"^synced (\d+) ([0-9a-f]{64})$", re.MULTILINE)


class Writer:
    """Writes below ROOT, into files that are numbered on; `synced` has the digest of each that was synced.

    While it writes, the machine's shell is its own: what it says would be taken for what another line prints.
    """

    def __init__(self, guest: Guest) -> None:
        self.synced: dict[int, str] = {}
        self._guest = guest

    def start(self) -> None:
        """Let it write, in the background."""
        self._guest.send(_FUNCTION)
        self._guest.call("rm -f /tmp/stop")
        self._guest.send(f"write_files {self._next} &")

    def wait_for(self, count: int) -> None:
        """Return when so many more files are synced; fails when one cannot be written."""
        last = self._next + count - 1
        pattern = rf"synced {last} \S+\n|failed \d+\n".encode()
        said = self._guest.until(pattern, f"file {last} synced").decode()
        self.take(said)
        assert "failed" not in said, f"{said}\n{self._guest.log()[-2000:]}"

    def stop(self) -> None:
        """Let it end the file that it is at; fails when one could not be written."""
        said = self._guest.call("touch /tmp/stop; wait")
        self.take(said)
        assert "failed" not in said, f"{said}\n{self._guest.log()[-2000:]}"

    def wait_until_it_fails(self) -> None:
        """Return when a file could not be written."""
        self.take(self._guest.until(rb"failed \d+\n", "a file that cannot be written").decode())

    def take(self, said: str) -> None:
        """Note what it said."""
        self.synced |= {int(number): digest for number, digest in _SYNCED.findall(said)}

    def compare(self) -> None:
        """Every file that it called synced is there and has the bytes that it had then."""
        assert self.synced, "nothing was synced, so nothing would be compared"
        said = self._guest.call(f"cd {ROOT} && sha256sum -- *[0-9]; cd - > /dev/null")
        found = {name: digest for digest, name in re.findall(r"^([0-9a-f]{64})  (\d+)$", said, re.MULTILINE)}
        wrong = {number for number, digest in self.synced.items() if found.get(str(number)) != digest}
        assert not wrong, f"of {len(self.synced)} synced files, these are lost or broken: {sorted(wrong)}\n{said}"

    @property
    def _next(self) -> int:
        """One after the last that it called synced; the one at which it was then is written again."""
        return max(self.synced, default=-1) + 1
