"""On what it was measured."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import psycopg

from machserial import __version__
from machserial.bench.place import cores

SETTINGS = (
    *("fsync", "synchronous_commit", "full_page_writes", "wal_sync_method", "wal_level", "commit_delay"),
    *("shared_buffers", "max_wal_size", "checkpoint_timeout", "effective_cache_size", "work_mem"),
    *("maintenance_work_mem", "max_connections", "autovacuum", "jit", "huge_pages", "io_method"),
)
SAFE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}


def facts(dsn: str) -> dict[str, object]:
    """The machine, as far as this side of the connection can tell, and the server."""
    with psycopg.connect(dsn) as session:
        settings = session.execute(
            "select name, current_setting(name) from pg_settings "
            "where name = any(%(names)s) order by array_position(%(names)s, name)",
            {"names": list(SETTINGS)},
        ).fetchall()
        version = session.execute("select current_setting('server_version')").fetchone()[0]
    return {
        "machserial": __version__,
        "postgresql": version,
        "cores": cores(),
        "processor": _processor(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "load_before": round(os.getloadavg()[0], 2),
        "settings": dict(settings),
    }


def unsafe(machine: dict[str, object]) -> list[str]:
    """The settings with which a committed serial may be lost."""
    settings = machine["settings"]
    return [f"{name} = {settings[name]}" for name, safe in SAFE.items() if settings.get(name) != safe]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
