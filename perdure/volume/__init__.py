"""Several named files on one array, for programs that want files and no mount.

from perdure import api
from perdure.volume import Volume

with api.open_array(settings, array_id) as array, Volume(array) as volume:
    with volume.open("notes.txt", "w") as notes:
        notes.write("state")
    volume.sync()
"""

from perdure.volume.file import File
from perdure.volume.part import Part
from perdure.volume.volume import Volume

__all__ = ["File", "Part", "Volume"]
