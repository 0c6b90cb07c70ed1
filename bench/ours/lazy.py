"""The simulated platform's launcher, for arrays larger than this machine: disks take memory as it is touched.

A disk takes all its memory at its start (MAP_POPULATE), so that it can never lack it later. Five disks of a 16 GiB
array would take 28 GiB. Here the same image is launched, measured and attested as ever, and the only difference is that
its interpreter is told MAP_POPULATE = 0 before the program starts. What was never written reads as zeros either way.
"""

from __future__ import annotations

from perdure.simtee import launch

if __name__ == "__main__":
    launch._BOOT = f"import mmap; mmap.MAP_POPULATE = 0; {launch._BOOT}"  # type: ignore[misc]
    launch.main()
