"""machserial: serial numbers for manufactured parts inside PostgreSQL."""

from importlib.resources import files

DATA = files(__name__) / "data"

__version__ = (DATA / "VERSION").read_text().strip()
