"""SQLite straight on an array: no mount, no file on the host. Needs `apsw` (the extra `sqlite`).

from perdure.sqlite.connect import connect

with api.open_array(settings, array_id) as array, Volume(array) as volume:
    with connect(volume, "main.db") as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS state(number INTEGER PRIMARY KEY, body BLOB)")
"""
