"""TOML files read strictly: every value has its type, and an unknown key is an error that names the nearest one."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from topology.errors import InputError

_WANTED = {
    "int_type": "a whole number",
    "string_type": "text in quotes",
    "list_type": "a list in brackets",
    "model_type": "a table",
}
_SHOWN_CHARACTERS = 80
_DEEPEST = 64  # tables and lists in one another; no file of ours needs more than six
_INTEGERS = range(-(2**63), 2**63)  # what TOML promises; Python would read more, and fail to show them


class Table(BaseModel):
    """Base of every table of a file: frozen, no value is converted (a boolean is no number), no key is unknown."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


AnyTable = TypeVar("AnyTable", bound=Table)


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, without a byte order mark.

    Raises:
        InputError: The file is missing, unreadable or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(path, "no such file", "name a file that exists") from None
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", "name a readable file") from None
    except UnicodeDecodeError as error:
        raise InputError(path, f"byte {error.start} is not UTF-8", "save the file as UTF-8 text") from None


def read_toml(path: Path, shape: type[AnyTable]) -> AnyTable:
    """The tables of a TOML file in the given shape.

    Raises:
        InputError: The file is missing or no TOML (file and line), nested too deeply, a number is beyond 64 bits, a key
            is unknown or missing, or a type is wrong.
    """
    text = read_text(path)
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(path, f"not TOML: {error}", "mend the syntax there") from None
    except RecursionError:
        raise _too_deep(path) from None
    except ValueError:  # of int(), for thousands of digits
        raise _too_large(path) from None
    _check_bounds(path, data)
    try:
        return shape.model_validate(data)
    except ValidationError as error:
        raise _input_error(path, shape, data, error) from None


def _check_bounds(path: Path, data: Any) -> None:
    level = [data]
    for _ in range(_DEEPEST):
        if any(isinstance(value, int) and value not in _INTEGERS for value in level):
            raise _too_large(path)
        inner = [value.values() if isinstance(value, dict) else value for value in level]
        level = [
            each
            for value in inner
            if isinstance(value, Iterable) and not isinstance(value, str)
            for each in value
        ]
        if not level:
            return
    raise _too_deep(path)


def _too_deep(path: Path) -> InputError:
    return InputError(
        path, f"tables and lists stand more than {_DEEPEST} deep in one another", "take some out"
    )


def _too_large(path: Path) -> InputError:
    return InputError(path, "a whole number is beyond 64 bits", "a number from -2^63 to 2^63 - 1")


def _input_error(path: Path, shape: type[Table], data: dict[str, Any], error: ValidationError) -> InputError:
    """One complaint as one line; a misspelt key goes before the missing one that it stands for."""
    first = min(error.errors(include_url=False), key=lambda each: each["type"] != "extra_forbidden")
    kind, location, value = first["type"], first["loc"], first["input"]
    field = _field(data, location)
    key = str(location[-1])
    if kind == "extra_forbidden":
        return InputError(
            path, f"{field} is an unknown key", _nearest(key, shape, _shape_at(shape, location[:-1]))
        )
    if kind == "missing":
        return InputError(path, f"{field} is missing", "add it")
    mend = f"should be {_WANTED[kind]}" if kind in _WANTED else first["msg"]
    if kind == "list_type" and isinstance(value, dict):
        mend = f"write [[{key}]] in double brackets above each table"
    if kind == "value_error":
        mend = str(first["ctx"]["error"])
    shown = repr(value)
    shown = shown if len(shown) <= _SHOWN_CHARACTERS else f"{shown[:_SHOWN_CHARACTERS]}…"
    return InputError(path, f"{field} = {shown}", mend)


def _field(data: Any, location: tuple[int | str, ...]) -> str:
    """The place of a value as its author knows it: `peer with id 3: address`, `edges, entry 2`."""
    words = ""
    for part in location:
        if isinstance(part, str):
            data = data.get(part)
            words += f": {part}" if words else part
            continue
        data = data[part]
        if isinstance(data, dict) and isinstance(data.get("id"), int):
            words += f" with id {data['id']}"
        else:
            words += f", entry {part + 1}"
    return words


def _shape_at(shape: type[Table], location: tuple[int | str, ...]) -> type[Table]:
    """The shape of the table at a location: `[[peer]]` is a list of tables, `[run]` a table."""
    for part in location:
        if isinstance(part, str):
            annotation = shape.model_fields[part].annotation
            kinds = (*get_args(annotation), annotation)
            shape = next(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Table))
    return shape


def _nearest(key: str, top: type[Table], table: type[Table]) -> str:
    if table is not top and key in top.model_fields:
        return f"move {key} to the top of the file, above the first [table]"
    near = difflib.get_close_matches(key, table.model_fields, n=1)
    return f"did you mean {near[0]}?" if near else f"known keys: {', '.join(table.model_fields)}"
