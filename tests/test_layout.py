"""The house keeps its shape: which folder may import which, what is installed, and that nothing shadows a library."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ["kernels", "architectures", "experiments", "platform", "dashboard"]
MODULES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def imported_rooms(source: str, folder: Path) -> set[str]:
    """The rooms that ``source`` in ``folder`` imports from: relatively, as ``hybridlab.room``, or by a bare name."""
    package = ["hybridlab", *folder.relative_to(ROOT).parts]
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            names |= {f"{stem}.{alias.name}" for alias in node.names}
    rooms = set()
    for name in names:
        head, *rest = name.split(".")
        if head == "hybridlab" and rest:
            rooms.add(rest[0])
        elif head in ROOMS and head != "platform":  # `import platform` is the standard library's
            rooms.add(f"bare {head}")
    return rooms


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down_never_up(path):
    here = ROOMS.index(path.relative_to(ROOT).parts[0])
    for room in imported_rooms(path.read_text(), path.parent):
        assert room in ROOMS, f"{path.name} imports {room}"
        assert ROOMS.index(room) <= here, f"{path.name} in {ROOMS[here]} imports {room}, which stands above it"


def test_the_import_reader_sees_every_form():
    lines = ["from ..kernels import x", "from .. import platform", "import hybridlab.dashboard.app", "import kernels"]
    assert imported_rooms("\n".join(lines), ROOT / "architectures") == {
        "kernels",
        "platform",
        "dashboard",
        "bare kernels",
    }


def test_every_package_is_installed():
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {"hybridlab." + ".".join(path.parent.relative_to(ROOT).parts) for path in MODULES}
    assert listed == found


def test_every_data_file_is_installed():
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    installed = {
        file
        for package, globs in data.items()
        for glob in globs
        for file in (ROOT / Path(*package.split(".")[1:])).glob(glob)
    }
    files = {
        path
        for room in ROOMS
        for path in (ROOT / room).rglob("*")
        if path.is_file() and path.suffix not in {".py", ".pyc", ".md"}
    }
    assert files <= installed, f"not in package-data: {sorted(str(f.relative_to(ROOT)) for f in files - installed)}"


@pytest.mark.parametrize(
    "code",
    [
        "import platform; assert platform.python_version()",
        "import transformers; transformers.LlamaForCausalLM(transformers.LlamaConfig(hidden_size=8, "
        "intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=8))",
    ],
    ids=["platform", "transformers"],
)
def test_a_program_run_from_the_root_gets_the_libraries_it_asks_for(code):
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr


def test_the_repository_names_no_machine():
    shown = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, timeout=60).stdout.split()
    words = ["/wo" + "rk/", "/ro" + "ot/"]
    for name in shown:
        path = ROOT / name
        if path.suffix in {".py", ".md", ".yaml", ".toml", ".json", ""} and path.is_file():
            text = path.read_text(errors="replace")
            assert not any(word in text for word in words), name
