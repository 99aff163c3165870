"""Rows of pictures, and which of them are favourites."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from studio.store.database import Database, read, read_all
from studio.store.errors import StoreError
from studio.store.rows import Image, Purpose
from studio.store.schema import images
from studio.store.sessions import read_session

ANY: Any = object()


class Images(Database):
    """The pictures of all sessions."""

    @staticmethod
    def new_image_id() -> str:
        """An id for an image whose files are about to be written."""
        return uuid.uuid4().hex

    def add_image(self, image: Image) -> Image:
        """Add an image whose files are already on the disk."""
        with self.writing() as connection:
            read_session(connection, image.session_id)
            connection.execute(sa.insert(images).values(vars(image)))
        return image

    def image(self, image_id: str) -> Image:
        """One image."""
        with self.reading() as connection:
            row = connection.execute(sa.select(images).where(images.c.id == image_id)).first()
        if row is None:
            raise StoreError("This picture does not exist.")
        return read(Image, row, images)

    def images_of(self, image_ids: Sequence[str]) -> list[Image]:
        """Those of these images that exist and can be read, in the order of drawing."""
        query = sa.select(images).where(images.c.id.in_(image_ids)).order_by(images.c.seq)
        with self.reading() as connection:
            rows = connection.execute(query)
            return read_all(connection, rows, lambda row: read(Image, row, images))

    def find_image(self, like: Image) -> Image | None:
        """The newest image that was drawn from the same inputs as `like`, or None."""
        same = ("session_id", "purpose", "prompt", "seed", "adapter_id", "strength", "base_hash")
        query = sa.select(images).where(
            images.c.sampling == like.sampling,
            images.c.companions == like.companions,
            images.c.erased_at_s.is_(None),
            *(images.c[name] == getattr(like, name) for name in same),
        )
        with self.reading() as connection:
            row = connection.execute(query.order_by(images.c.seq.desc()).limit(1)).first()
        return None if row is None else read(Image, row, images)

    def images(
        self,
        session_id: str,
        purpose: Purpose,
        *,
        adapter_id: str | None = ANY,
        limit: int = 100,
    ) -> list[Image]:
        """Images of one purpose, the newest first; `adapter_id` None selects the base model's."""
        query = sa.select(images).where(
            images.c.session_id == session_id, images.c.purpose == purpose
        )
        if adapter_id is not ANY:
            query = query.where(images.c.adapter_id == adapter_id)
        with self.reading() as connection:
            rows = connection.execute(query.order_by(images.c.seq.desc()).limit(limit))
            return read_all(connection, rows, lambda row: read(Image, row, images))

    def set_favourite(self, image_id: str, favourite: bool) -> None:
        """Mark a picture as a favourite, or remove the mark."""
        with self.writing() as connection:
            updated = connection.execute(
                sa.update(images)
                .where(images.c.id == image_id, images.c.erased_at_s.is_(None))
                .values(favourite=bool(favourite))
            )
            if not updated.rowcount:
                raise StoreError("This picture does not exist.")
