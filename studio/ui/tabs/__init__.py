"""The tabs, one folder each: `build(page)` makes the components and connects their events."""
