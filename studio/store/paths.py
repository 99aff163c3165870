"""Where the files of a home lie: one folder a session, and in it one folder a kind of file."""

from __future__ import annotations

from pathlib import Path

from studio.store.rows import Adapter, Image, Round

LOSSLESS_UP_TO_PX = 512  # larger pictures have a smaller copy for the screen


class Home:
    """The folder in which a studio keeps everything."""

    def __init__(self, home: Path) -> None:
        self.home = home

    @property
    def wildcards_path(self) -> Path:
        """The folder with the artist's own lists, which `__names__` in prompts refer to."""
        return self.home / "wildcards"

    @property
    def styles_path(self) -> Path:
        """The file with the artist's styles; it exists once a style has been saved."""
        return self.home / "styles.csv"

    def thumbnail_path(self, content_sha256: str) -> Path:
        """The small copy of every picture whose file has this checksum; it can be made again."""
        return self.home / "thumbnails" / f"{content_sha256}.jpg"

    def session_path(self, session_id: str) -> Path:
        """The folder of a session's files."""
        return self.home / "sessions" / session_id

    def image_path(self, image: Image) -> Path:
        """The lossless picture."""
        return self._image_file(image, "images", ".png")

    def display_path(self, image: Image) -> Path:
        """The picture for the screen: the lossless one if that is small enough."""
        if max(image.sampling.width_px, image.sampling.height_px) <= LOSSLESS_UP_TO_PX:
            return self.image_path(image)
        return self._image_file(image, "display", ".jpg")

    def trajectory_path(self, image: Image) -> Path:
        """The latents of the picture, one for each denoising step."""
        return self._image_file(image, "trajectories", ".safetensors")

    def adapter_path(self, adapter: Adapter) -> Path:
        """The folder of an adapter's files."""
        return self.session_path(adapter.session_id) / "adapters" / adapter.id

    def checkpoint_path(self, round_: Round) -> Path:
        """The file from which an unfinished round goes on."""
        return self.session_path(round_.session_id) / "checkpoints" / f"{round_.id}.pt"

    def export_path(self, session_id: str, export_id: str) -> Path:
        """The folder of an export's files."""
        return self.session_path(session_id) / "exports" / export_id

    def _image_file(self, image: Image, folder: str, suffix: str) -> Path:
        return self.session_path(image.session_id) / folder / f"{image.id}{suffix}"
