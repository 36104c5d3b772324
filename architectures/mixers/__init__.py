"""One file per layer. Importing this package registers all: a new file is a new name in the pattern language."""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f".{_module.name}", __name__)
