import time
from urllib.parse import parse_qsl, unquote, urlsplit

CHECKS = {
    "redis_ping": (50, 200),
    "redis_memory": (80, 95),
    "redis_evictions": (1, None),
    "redis_latency": (10, 50),
}


def redis_checks(plpy, url):
    """Every check; after one that got no answer the others are not tried."""
    place = where(plpy, url)
    redis, remedy = library(plpy, "redis", "python3-redis")
    if redis is None:
        return [unknown(name, "the server's Python has no library redis", remedy) for name in CHECKS]
    client = connected(plpy, redis, url)
    rows = []
    try:
        for measure in (ping, memory_and_evictions, latency):
            rows += measure(client, place)
    except BaseException as error:
        # Whatever the library or the system says of it; the reason is in the row.
        reason = said(error, url)
        remedy = "See that it runs, and that the database server can reach it and log in: redis-cli ping, there."
        if not rows:
            rows = [{**unknown("redis_ping", f"{place} does not answer: {reason}", remedy), "status": "CRITICAL"}]
        rows += [unknown(name, f"not known: {reason}", remedy) for name in list(CHECKS)[len(rows) :]]
    finally:
        client.connection_pool.disconnect()
    return rows


def unknown(name, message, remedy):
    return checked(name, None, *CHECKS[name], message, remedy)


def refuse(plpy, reason):
    plpy.error(
        "this is no address of a Redis",
        detail=reason,
        hint="Write it as redis://user:password@host:6379/0, rediss://... for TLS, or unix:///path/to/socket.",
        sqlstate="22023",
    )


def where(plpy, url):
    """The address without user and password; 22023 if it is none."""
    if url is None:
        refuse(plpy, "It is null.")
    try:
        parts = urlsplit(url)
        port = parts.port or 6379
    except ValueError:
        refuse(plpy, "Its host or port cannot be read.")
    if parts.scheme not in ("redis", "rediss", "unix"):
        refuse(plpy, "It begins with none of redis://, rediss:// and unix://.")
    # What is not percent-encoded splits elsewhere than it was meant, and a piece of a password looks like a host.
    if "@" in parts.path + parts.query + parts.fragment:
        refuse(plpy, "It has an @ after the host: a password is percent-encoded, with %40 for @ and %2F for /.")
    if parts.scheme == "unix":
        return f"the Redis at {parts.path}"
    return f"the Redis at {parts.hostname or 'localhost'}:{port}"


def connected(plpy, redis, url):
    """A client that waits no longer than a check may, whatever the address says."""
    try:
        pool = redis.ConnectionPool.from_url(url)
    except Exception as error:
        refuse(plpy, f"The library says: {said(error, url)}.")
    pool.connection_kwargs.update(socket_timeout=0.2, retry_on_timeout=False)
    # The library knows none for a socket in a file, which connects at once or not at all.
    pool.connection_kwargs.pop("socket_connect_timeout", None)
    if "path" not in pool.connection_kwargs:
        pool.connection_kwargs["socket_connect_timeout"] = 0.05
    # Newer libraries try again by themselves.
    if hasattr(redis, "retry"):
        pool.connection_kwargs["retry"] = redis.retry.Retry(redis.backoff.NoBackoff(), 0)
    return redis.Redis(connection_pool=pool)


def said(error, url):
    """What an error says, without the password of the address."""
    parts = urlsplit(url)
    secrets = {url, parts.netloc, parts.password or "", dict(parse_qsl(parts.query)).get("password", "")}
    secrets |= {unquote(secret) for secret in secrets}
    text = str(error) or type(error).__name__
    if parts.password or "password" in parts.query:
        for secret in sorted(secrets - {""}, key=len, reverse=True):
            text = text.replace(secret, "***")
    return text


def timed(work):
    started = time.monotonic()
    work()
    return round(1000 * (time.monotonic() - started), 1)


def ping(client, place):
    took = timed(client.ping)
    return [
        checked(
            *("redis_ping", took, *CHECKS["redis_ping"]),
            f"{place} answers",
            "See what the machine and the network between are busy with.",
        )
    ]


def memory_and_evictions(client, place):
    known = client.info()
    limit = known["maxmemory"]
    used, total = known["used_memory"], limit or known["total_system_memory"]
    policy = known["maxmemory_policy"]
    of_what = f"of its {size(total)}" if limit else f"of the machine's {size(total)}, as it has no maxmemory"
    evicted = known["evicted_keys"]
    return [
        checked(
            *("redis_memory", round(100 * used / total, 1), *CHECKS["redis_memory"]),
            f"{size(used)} used {of_what}; when it is full: {policy}",
            "Raise maxmemory. A cache wants maxmemory-policy volatile-lru or allkeys-lru; noeviction refuses writes.",
        ),
        checked(
            *("redis_evictions", evicted, *CHECKS["redis_evictions"]),
            f"{evicted} keys were pushed out to make room",
            "Raise maxmemory, then count anew: redis-cli config resetstat. What was pushed out costs time only.",
        ),
    ]


def latency(client, place):
    took = sorted(timed(client.ping) for _ in range(5))
    return [
        checked(
            *("redis_latency", took[2], *CHECKS["redis_latency"]),
            f"{took[0]} to {took[4]} ms for an answer",
            "See redis-cli slowlog get, and what the machine and the network between are busy with.",
        )
    ]
