"""A versioned key-value store that nobody can put back: compare-and-set on an array. Needs `apsw`.

from perdure.kv.database import on_array
from perdure.kv.store import Store

with api.open_array(settings, array_id) as array, on_array(array, "nonces.db") as database:
    nonces = Store(database)
    nonces.put(b"session-7", commitment, expected=0)  # Conflict if this key was ever there
"""
