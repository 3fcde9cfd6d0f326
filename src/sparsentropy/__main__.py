"""Start the command line with ``python -m sparsentropy``."""

from sparsentropy.cli import app

if __name__ == "__main__":
    app(prog_name="sparsentropy")
