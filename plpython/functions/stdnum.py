import difflib
import importlib.util
import re


def are_valid(plpy, kind, numbers):
    """One answer a number."""
    stdnum, remedy = library(plpy, "stdnum", "python3-stdnum")
    if stdnum is None:
        plpy.error(
            "the server's Python has no library stdnum",
            detail="It is what knows numbering schemes such as imei and isbn.",
            hint=remedy,
            sqlstate="0A000",
        )
    scheme = module_of(stdnum, kind)
    if scheme is None:
        refuse_kind(plpy, kind)
    return [None if number is None else verdict(scheme, number) for number in numbers or []]


def module_of(stdnum, kind):
    """The scheme's module; None if there is none inside the library: nothing else is ever imported."""
    name = (kind or "").strip().lower()
    if not re.fullmatch(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*", name):
        return None
    try:
        spec = importlib.util.find_spec(f"stdnum.{name}")
    except ModuleNotFoundError:
        return None
    home = os.path.dirname(os.path.realpath(stdnum.__file__)) + os.sep
    if spec is None or not os.path.realpath(spec.origin or "").startswith(home):
        return None
    module = importlib.import_module(spec.name)
    return module if callable(getattr(module, "is_valid", None)) else None


def verdict(scheme, number):
    try:
        return bool(scheme.is_valid(number))
    except BaseException:
        # A scheme that stumbles over a number, or wants to end the program, has not found it valid.
        return False


def refuse_kind(plpy, kind):
    from stdnum.util import get_number_modules

    kinds = sorted(module.__name__.replace("stdnum.", "", 1) for module in get_number_modules())
    wanted = (kind or "").strip().lower()
    near = difflib.get_close_matches(wanted, kinds, n=5, cutoff=0.5)
    near += [one for one in kinds if wanted and one.split(".")[-1] == wanted and one not in near][:5]
    plpy.error(
        f"{'null' if kind is None else repr(kind)} is no kind of number",
        detail=f"The library stdnum knows {len(kinds)} kinds.",
        hint=f"Near: {', '.join(near)}." if near else "For instance: imei, ean, isbn, iso6346, luhn, gs1_128, us.ein.",
        sqlstate="22023",
    )
