"""Everything the studio stores: rows in SQLite, and files. The only package with SQL.

    store = Store.open(home)
    session = store.create_session("Blue things", SessionSettings(prompts=("a cat",)))

Any number of threads and processes may use a `Store` at once; each of its methods is one
transaction. It unites siblings, one file a subject: `sessions`, `images`, `questions` (pairs and
grids), `answers` (picks), `counts`, `rounds` (with metrics and adapters), `jobs` (with the worker's
status), `exports`, `exams`, `gallery`, `deleting` (of pictures), `library` (base models),
`folder_pictures` (those of an artist's folders), `seen_files` (of watched ones), `own_pictures`
(their own finished art), `judged` (picks by functions) and `tour` (of the pages). Each is a class
on `database` (transactions, migrations), and none knows another. Its return values are in `rows`.
"""

from studio.store.answers import Answers
from studio.store.archive import (
    ArchiveError,
    export_session,
    import_session,
    outgoing_archive,
)
from studio.store.counts import Counts
from studio.store.deleting import DeletedPictures, Deleting
from studio.store.doctor import FileReport, examine_files, restore, set_orphans_aside
from studio.store.errors import (
    AlreadyAnswered,
    RowDamaged,
    StoreDamaged,
    StoreError,
    StoreFull,
    StoreLocked,
    StoreTooNew,
)
from studio.store.exams import Exam, ExamPair, Exams
from studio.store.exports import Exports
from studio.store.files import write_atomically
from studio.store.folder_pictures import FolderPictures
from studio.store.gallery import (
    Gallery,
    GalleryFilter,
    GalleryIndex,
    GalleryPicture,
)
from studio.store.home_check import warning as home_warning
from studio.store.images import Images
from studio.store.jobs import Jobs
from studio.store.judged import Judged
from studio.store.library import Library
from studio.store.lock import StudioLock
from studio.store.lone_pictures import LonePictures
from studio.store.mending import RowReport, mend_rows
from studio.store.own_pictures import OwnCounts, OwnPicture, OwnPictures
from studio.store.questions import Questions
from studio.store.rounds import Rounds
from studio.store.rows import (
    Adapter,
    Answer,
    Consistency,
    Export,
    Image,
    Job,
    KeptAnswer,
    KnownModel,
    Metric,
    Pair,
    Pick,
    PickCounts,
    PickedPair,
    Question,
    Round,
    Session,
)
from studio.store.seen_files import SeenFile, SeenFiles
from studio.store.sessions import Sessions
from studio.store.snapshots import (
    Snapshot,
    database_complaints,
    differing_rows,
    snapshots,
    take_daily_snapshot,
    take_snapshot,
)
from studio.store.status import WorkerStatus
from studio.store.tour import Tour


class Store(
    Sessions,
    Images,
    Gallery,
    Deleting,
    Questions,
    Answers,
    Counts,
    Rounds,
    Jobs,
    Exports,
    Exams,
    Library,
    FolderPictures,
    SeenFiles,
    OwnPictures,
    Judged,
    Tour,
):
    """The store of one home; see `Store.open`."""


__all__ = [
    "Adapter",
    "AlreadyAnswered",
    "Answer",
    "ArchiveError",
    "Consistency",
    "DeletedPictures",
    "Exam",
    "ExamPair",
    "Export",
    "FileReport",
    "GalleryFilter",
    "GalleryIndex",
    "GalleryPicture",
    "Image",
    "Job",
    "KeptAnswer",
    "KnownModel",
    "LonePictures",
    "Metric",
    "OwnCounts",
    "OwnPicture",
    "Pair",
    "Pick",
    "PickCounts",
    "PickedPair",
    "Question",
    "Round",
    "RowDamaged",
    "RowReport",
    "SeenFile",
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
    "set_orphans_aside",
    "snapshots",
    "take_daily_snapshot",
    "take_snapshot",
    "write_atomically",
]
