"""One command for every figure that the project claims: `python launch.py bench NAME`."""
