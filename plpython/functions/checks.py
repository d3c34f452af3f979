def checked(name, value, warning, critical, message, remedy):
    """A row as health() gives it: value against thresholds beyond which it gets worse, upwards or downwards."""
    worse = 1 if critical is None or critical >= warning else -1
    if value is None:
        status = "UNKNOWN"
    elif critical is not None and value * worse >= critical * worse:
        status = "CRITICAL"
    elif value * worse >= warning * worse:
        status = "WARNING"
    else:
        status = "OK"
    return {
        "name": name,
        "status": status,
        "value": value,
        "warning": warning,
        "critical": critical,
        "message": message,
        "remedy": remedy,
    }


def size(number):
    """A number of bytes for people."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"
