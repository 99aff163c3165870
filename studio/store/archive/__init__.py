"""A session as one file, for a backup or another machine.

An archive is a zip. Version 8 holds

    session.json                      the rows, and of each file its size and SHA-256
    images/ID.png  display/ID.jpg  trajectories/ID.safetensors
    adapters/ID/...  exports/ID/...   the files, as they lie in the session's folder

`session.json` is {"format": "d3po-studio-session", "version": 8, "studio": VERSION, "tables":
{TABLE: [ROW, ...]}, "files": {NAME: {"bytes": N, "sha256": HEX}}}. A row is {COLUMN: VALUE} with
all columns except `place`, and rows are in the order of `place`. Checkpoints are left out: an
unfinished round starts again, and comes to the same adapter. Open jobs are left out too.
`layout.ADDED` has the columns that older versions lack.

An archive may come from anybody. Its names are never used as paths: each file belongs to a row, and
is written under an id that is made here. Rows are imported only if the studio could have written
them itself. Nothing reaches the session folder until all of it has been checked.
"""

from studio.store.archive.layout import SPARE_BYTES, TABLES, ArchiveError
from studio.store.archive.reading import import_session
from studio.store.archive.writing import export_session, outgoing_archive

__all__ = [
    "SPARE_BYTES",
    "TABLES",
    "ArchiveError",
    "export_session",
    "import_session",
    "outgoing_archive",
]
