"""Sweeps that come with hybridlab, each a YAML file beside this one."""

from pathlib import Path

from ...architectures import InvalidInput, nearest

_FOLDER = Path(__file__).parent


def sweep_names() -> list[str]:
    """The sweeps that come with hybridlab."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def sweep_path(name: str) -> Path:
    """The file of a sweep: a path to a YAML file, or the name of one that comes with hybridlab."""
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if name in sweep_names():
        return _FOLDER / f"{name}.yaml"
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        raise InvalidInput(f"sweep {name!r}: no such file")
    raise InvalidInput(f"sweep {name!r} is unknown: {nearest(name, sweep_names())}")
