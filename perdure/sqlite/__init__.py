"""SQLite straight on an array: no mount, no file on the host. Over `apsw`.

from perdure import api, sqlite
from perdure.volume import Volume

with api.open_array(settings, array_id) as array, Volume(array) as volume:
    with sqlite.connect(volume, "main.db") as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS state(number INTEGER PRIMARY KEY, body BLOB)")
"""

from perdure.sqlite.connection import connect, databases
from perdure.sqlite.files import ArrayError

__all__ = ["ArrayError", "connect", "databases"]
