"""Libraries that are loaded when they are first used: what most commands do not use shall not delay all of them."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType


def load_lazily(name: str) -> ModuleType:
    """The module of that name, whose code runs when one of its attributes is first asked for.

    Raises:
        ModuleNotFoundError: There is none.
    """
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
