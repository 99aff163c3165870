"""Exports: LoRA files made from an adapter, and their copies in another tool's folder."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from studio.store.database import Database, get_value, read, read_all, set_value
from studio.store.errors import StoreError
from studio.store.rows import Export
from studio.store.schema import exports
from studio.store.sending import send, tool_folder


class Exports(Database):
    """The exports of all sessions."""

    def add_export(self, export: Export) -> Export:
        """Add an export whose files are already on the disk."""
        with self.writing() as connection:
            connection.execute(sa.insert(exports).values(vars(export)))
        return export

    def exports(self, session_id: str) -> list[Export]:
        """The exports of a session, the newest first."""
        with self.reading() as connection:
            found = connection.execute(
                sa.select(exports)
                .where(exports.c.session_id == session_id)
                .order_by(exports.c.seq.desc())
            )
            return read_all(connection, found, lambda row: read(Export, row, exports))

    def lora_folder(self) -> str:
        """The folder where another tool keeps its LoRAs; "" if the artist has not named one."""
        with self.reading() as connection:
            return get_value(connection, "lora_folder") or ""

    def set_lora_folder(self, written: str) -> None:
        """Set the LoRA folder. Raises StoreError if it does not exist."""
        folder = str(tool_folder(written)) if written.strip() else ""
        with self.writing() as connection:
            set_value(connection, "lora_folder", folder)

    def send_export(self, session_id: str, export_id: str) -> Path:
        """Copy an export into the LoRA folder, and return the path of the LoRA there."""
        found = {one.id: one for one in self.exports(session_id)}
        if export_id not in found:
            raise StoreError("This export is not there any more.")
        names = (Path(file).stem for file in found[export_id].files if file.endswith(".json"))
        name = next(names, "")
        return send(self.export_path(session_id, export_id), name, tool_folder(self.lora_folder()))
