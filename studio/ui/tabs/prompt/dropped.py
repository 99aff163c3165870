"""A dropped model: a browser tells its name and size, and where it lies is found out here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from studio.messages import _
from studio.paths import expanded
from studio.settings import SettingsError
from studio.store.rows import KnownModel

SUFFIX = ".safetensors"
FOLDER = -1  # instead of a size
DOWNLOADS = Path.home() / "Downloads"
PIPELINE = "model_index.json"


def find(name: str, size_bytes: int, known: Sequence[KnownModel], folders: Iterable[str]) -> str:
    """The path of a dropped file or folder: of the library, beside its models, in one of the
    library's folders, or among the downloads.

    size_bytes: of a file, or FOLDER. Raises SettingsError for no model and for none or several.
    """
    if not name or Path(name).name != name or "\\" in name:
        raise SettingsError(_("This is not the name of a file."))
    if size_bytes != FOLDER and Path(name).suffix.lower() != SUFFIX:
        raise SettingsError(
            _(
                "{name} is not a .safetensors file. Other checkpoints can hide programs and are "
                "not opened; convert it to .safetensors first.",
                name=name,
            )
        )
    beside = {Path(model.base_model).parent: None for model in known}
    places = [*beside, *map(expanded, folders), DOWNLOADS]
    listed = [Path(model.base_model) for model in known if Path(model.base_model).name == name]
    candidates = [*listed, *(place / name for place in places if place.is_absolute())]
    found: dict[Path, Path] = {}  # by their real paths: a link is no other model
    for path in candidates:
        if _is(path, size_bytes):
            found.setdefault(path.resolve(), path)
    if len(found) == 1:
        return str(next(iter(found.values())))
    if found:
        paths = " and ".join(map(str, found.values()))
        raise SettingsError(
            _(
                "There are {number} of this name and size: {paths}. Paste the path of the one that "
                "you mean.",
                number=len(found),
                paths=paths,
            )
        )
    raise SettingsError(
        _(
            "A browser does not tell where {name} lies, and it is in no folder that the studio "
            "knows. Copy its path in the file manager and paste it here, or add its folder "
            "below.",
            name=name,
        )
    )


def _is(path: Path, size_bytes: int) -> bool:
    try:
        if size_bytes == FOLDER:
            return (path / PIPELINE).is_file()
        return path.is_file() and path.stat().st_size == size_bytes
    except (OSError, ValueError):
        return False
