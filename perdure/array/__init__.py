"""The array: sealed sectors spread k-of-n over disks that may die, lie dead or be shown again by a hostile host.

A core: no socket, clock, thread or randomness of its own. What it needs of the world comes through `ports`, so the
same lines run under asyncio and under a simulator. Data flows `engine` (cache, commit, read) -> `sealing` ->
`erasure` -> `journal` (entries) -> `session` (one disk's signed commands). `create` and `mount` decide, by the rules
in `roster`, who is a member and which history counts.
"""
