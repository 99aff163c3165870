"""Every figure that the project claims, one command each: `python launch.py bench NAME`."""
