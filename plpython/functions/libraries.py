import importlib
import site


def add_path(path):
    """Has Python look there after its own library, but before what the operating system installed."""
    known = list(sys.path)
    site.addsitedir(path)
    added = [one for one in sys.path if one not in known]
    place = next((at for at, one in enumerate(known) if one.endswith("dist-packages")), len(known))
    sys.path[:] = known[:place] + added + known[place:]


def library(plpy, name, package):
    """The module of that name, or None; and what to do about it. Python itself remembers those that it has loaded."""
    if name in sys.modules:
        return sys.modules[name], None
    remedy = (
        f"On Debian, as root: apt-get install {package}. Elsewhere make a virtual environment with the server's"
        " Python, install it there, and: select machserial.set_python_path('/...');"
    )
    for path in plpy.execute("select machserial._python_paths() as paths")[0]["paths"]:
        reason = fault(path)
        if reason:
            return None, f"Python does not look into {path}: {reason} Mend that, or set another path. {remedy}"
        add_path(library_folder(path))
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name), None
    except ModuleNotFoundError:
        return None, remedy
    except BaseException as error:
        # SystemExit as well: it would end no more than the call, but say nothing.
        return None, f"Its installation is broken ({type(error).__name__}: {error}). {remedy}"
