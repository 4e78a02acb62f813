"""Libraries that are loaded when they are first used: what most commands do not use shall not delay all of them."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any


class _Lazy(ModuleType):
    """Stands for a module; each of its attributes is the module's own."""

    def __getattr__(self, attribute: str) -> Any:
        # The import system lets one thread load it and the others wait, which importlib.util.LazyLoader did not before
        # Python 3.12.
        return getattr(importlib.import_module(self.__name__), attribute)


def load_lazily(name: str) -> ModuleType:
    """The module of that name, which is loaded when one of its attributes is first asked for."""
    return _Lazy(name)
