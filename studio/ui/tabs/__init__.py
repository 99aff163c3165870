"""The tabs, one file each: `build(page)` makes the components and says what they show and hear."""
