"""Everything the studio keeps: rows in SQLite, files beside them. The only place with SQL.

    store = Store.open(home)
    session = store.create_session("Blue things", SessionSettings(prompts=("a cat",)))

`Store` may be used by any number of threads and processes at once; each of its methods is one
transaction. It is put together from one file a subject: `sessions`, `labelling` (images, pairs,
picks), `rounds` (with metrics and adapters), `jobs` (with exports and the worker's status),
`exams` and `library` (base models), on `database` (transactions, migrations). What it returns is in
`rows`.
"""

from studio.store.archive import (
    ArchiveError,
    export_session,
    import_session,
    outgoing_archive,
)
from studio.store.doctor import FileReport, examine_files, restore
from studio.store.errors import (
    RowDamaged,
    StoreDamaged,
    StoreError,
    StoreFull,
    StoreLocked,
    StoreTooNew,
)
from studio.store.files import write_atomically
from studio.store.library import Library
from studio.store.lock import StudioLock
from studio.store.mending import RowReport, mend_rows
from studio.store.place import warning as home_warning
from studio.store.rows import (
    Adapter,
    Answer,
    Exam,
    ExamPair,
    Export,
    Habits,
    Image,
    Job,
    KnownModel,
    Metric,
    Pair,
    Pick,
    PickCounts,
    PickedPair,
    Question,
    Round,
    Session,
    WorkerStatus,
)
from studio.store.snapshots import (
    Snapshot,
    database_complaints,
    differing_rows,
    snapshots,
    take_daily_snapshot,
    take_snapshot,
)


class Store(Library):
    """The store of one home; see `Store.open`."""


__all__ = [
    "Adapter",
    "Answer",
    "ArchiveError",
    "Exam",
    "ExamPair",
    "Export",
    "FileReport",
    "Habits",
    "Image",
    "Job",
    "KnownModel",
    "Metric",
    "Pair",
    "Pick",
    "PickCounts",
    "PickedPair",
    "Question",
    "Round",
    "RowDamaged",
    "RowReport",
    "Session",
    "Snapshot",
    "Store",
    "StoreDamaged",
    "StoreError",
    "StoreFull",
    "StoreLocked",
    "StoreTooNew",
    "StudioLock",
    "WorkerStatus",
    "database_complaints",
    "differing_rows",
    "examine_files",
    "export_session",
    "home_warning",
    "import_session",
    "mend_rows",
    "outgoing_archive",
    "restore",
    "snapshots",
    "take_daily_snapshot",
    "take_snapshot",
    "write_atomically",
]
