"""Whether the tour of the pages has been seen in this home."""

from __future__ import annotations

from studio.store.database import Database, get_value, set_value

SEEN = "tour_seen"


class Tour(Database):
    """One mark for the whole home, whatever browser it is opened in."""

    def tour_seen(self) -> bool:
        """Whether somebody has left the tour, or come to its end."""
        with self.reading() as connection:
            return bool(get_value(connection, SEEN))

    def set_tour_seen(self) -> None:
        """From now on the tour starts only when it is asked for."""
        with self.writing() as connection:
            set_value(connection, SEEN, True)
