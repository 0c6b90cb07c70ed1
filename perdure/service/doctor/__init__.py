"""What may be wrong before it goes wrong: `perdure doctor`. It reads, asks and connects, and changes nothing.

`machine` judges facts about this machine (a core: facts in, findings out), `look` reads them. `software` tries what is
installed, `site` an array's files and main program, `disks` the disks. `examination` puts all of it in order.
"""
