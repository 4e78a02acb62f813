"""The report: one HTML file that holds everything it shows, for the screen and for paper.

Pictures are inline SVG or data URIs, and there is no script and no link outwards, so the file can be sent on as it
is. What is missing (a probe not made yet, a node that never ran) becomes one line that says what would make it.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from pydantic import BaseModel

from eval.comparison import POLICIES, WEIGHED, error_table, policy_name, quality_table
from eval.portrait import SAMPLES, TEST, Portrait, portray
from eval.results import ProbeResult, QualityResult, read_probe, read_quality
from eval.runs import RunDirectory
from eval.structure import Structure, describe
from node.config import Section, Settings
from node.files import write_atomically
from topology.errors import InputError
from topology.files import read_graph

_TEMPLATE = "report.html.j2"
_NONE = "\u2013"  # an en dash


@dataclass(frozen=True)
class SettingRow:
    """A setting that differs from its default.

    Attributes:
        key: Such as `discriminator.max_steps`.
        value: In this run.
        default: Without a preset.
        description: What it does.
    """

    key: str
    value: str
    default: str
    description: str


@dataclass(frozen=True)
class Chapter:
    """One run with everything the page says of it.

    Attributes:
        portrait: What its directory holds.
        graph: Name of the graph; empty where graph.toml is missing.
        probe: What `dgan-eval probe` found, if it was run.
        quality: What `dgan-eval quality` found, if it was run.
        problems: One line for each result that is missing or broken, with what would mend it.
        changed: Settings that differ from the defaults.
        versions: What run.json says: versions, time, command.
    """

    portrait: Portrait
    graph: str
    probe: ProbeResult | None
    quality: QualityResult | None
    problems: tuple[str, ...]
    changed: tuple[SettingRow, ...]
    versions: tuple[tuple[str, str], ...]

    @property
    def states(self) -> str:
        """States of the nodes, such as `5 finished`."""
        found = Counter(str(node.status.get("state", "not run")) for node in self.portrait.nodes)
        return ", ".join(f"{count} {state}" for state, count in found.most_common())


def write_report(runs: Sequence[RunDirectory], output: Path) -> Path:
    """Writes the report of one run or several side by side and returns its path.

    Args:
        runs: At least one.
        output: The HTML file; folders on the way are made, an older file is replaced.

    Raises:
        InputError: No run was given.
        OSError: The file cannot be written.
    """
    if not runs:
        raise InputError("report", "no run is given", "name at least one run directory")
    order = list(POLICIES)
    ranked = sorted(runs, key=lambda run: order.index(run.settings.policy))
    labels = _labels(ranked)
    chapters = [_chapter(run, labels[place], f"run-{place + 1}") for place, run in enumerate(ranked)]
    probes = [(c.portrait.label, c.probe) for c in chapters if c.probe]
    qualities = [(c.portrait.label, c.quality) for c in chapters if c.quality]
    page = (
        _environment()
        .get_template(_TEMPLATE)
        .render(
            chapters=chapters,
            errors=error_table(probes),
            quality=quality_table(qualities),
            structures=_structures(chapters),
            ring=all(_is_paper_ring(run) for run in ranked),
            made=datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC"),
        )
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(output, page.encode())
    return output


def _chapter(run: RunDirectory, label: str, anchor: str) -> Chapter:
    problems: list[str] = []
    probe = _result(run, "probe", problems)
    quality = _result(run, "quality", problems)
    portrait = portray(run, label, anchor)
    if isinstance(probe, ProbeResult):
        problems += _stale(portrait, "probe", {node.node: node.cycle for node in probe.headline.nodes})
    if isinstance(quality, QualityResult):
        problems += _stale(portrait, "quality", {node.node: node.cycle for node in quality.nodes})
    try:
        graph = read_graph(run.path / "graph.toml").name
    except InputError:
        graph = ""
    return Chapter(
        portrait=portrait,
        graph=graph,
        probe=probe if isinstance(probe, ProbeResult) else None,
        quality=quality if isinstance(quality, QualityResult) else None,
        problems=tuple(problems),
        changed=_changed(Settings(), run.settings),
        versions=_versions(run.path / "run.json"),
    )


def _result(run: RunDirectory, name: str, problems: list[str]) -> ProbeResult | QualityResult | None:
    """A result of the evaluator; where there is none of this very run, `problems` gets a line that says what to do."""
    mend = f"dgan-eval {name} {shlex.quote(str(run.path))}"
    try:
        result = {"probe": read_probe, "quality": read_quality}[name](run.evaluation)
    except InputError as error:
        problems.append(f"{name}: {error}")
        return None
    if result is None:
        problems.append(f"{name}: not made yet; run `{mend}`")
    elif (result.run_id, result.policy) != (run.run_id, run.settings.policy):
        found = f"run {result.run_id!r} with policy {result.policy!r}"
        problems.append(f"{name}: {name}.json is of {found}, not of {run.run_id!r}; run `{mend}`")
        return None
    return result


def _stale(portrait: Portrait, name: str, cycles: Mapping[int, int | None]) -> list[str]:
    """A line where a result was measured on checkpoints that are not the newest any more."""
    newest = {node.id: node.checkpoint.cycle for node in portrait.nodes if node.checkpoint}
    behind = [node for node, cycle in cycles.items() if newest.get(node, cycle) != cycle]
    if not behind:
        return []
    node, mend = behind[0], f"dgan-eval {name} {shlex.quote(str(portrait.run.path))}"
    problem = (
        f"measured at cycle {cycles[node]} of node {node}, whose newest checkpoint is of cycle {newest[node]}"
    )
    return [f"{name}: {problem}; run `{mend}` again"]


def _labels(runs: Sequence[RunDirectory]) -> list[str]:
    """Names of the directories, numbered where two are alike."""
    names = [run.path.resolve().name or run.run_id for run in runs]
    return [
        name if names.count(name) == 1 else f"{name} #{names[: place + 1].count(name)}"
        for place, name in enumerate(names)
    ]


def _is_paper_ring(run: RunDirectory) -> bool:
    return run.edges == ((1, 2), (1, 5), (2, 3), (3, 4), (4, 5))


def _structures(chapters: Sequence[Chapter]) -> list[Structure]:
    """Every architecture that a node of a run has, once."""
    found: dict[str, Structure] = {}
    for chapter in chapters:
        run, shape = chapter.portrait.run, chapter.portrait.data.shape
        for node in chapter.portrait.nodes:
            if meta := node.checkpoint:
                size, channels = meta.image_size, meta.image_channels
            elif shape:
                size, channels = shape
            else:
                continue
            structure = run.settings.architecture.get(node.architecture)
            key = f"{node.architecture} {structure} {size} {channels}"
            if structure and key not in found:
                found[key] = describe(node.architecture, structure, size, channels)
    return list(found.values())


def _changed(default: BaseModel, section: BaseModel, prefix: str = "") -> tuple[SettingRow, ...]:
    """Settings of a section, and those below it, that differ from the defaults."""
    rows: list[SettingRow] = []
    for name, field in type(section).model_fields.items():
        value, usual = getattr(section, name), getattr(default, name)
        if isinstance(value, Section):
            rows += _changed(usual, value, f"{prefix}{name}.")
        elif isinstance(value, dict):
            rows += _changed_entries(usual, value, f"{prefix}{name}.", field.description or "")
        elif value != usual:
            rows.append(SettingRow(f"{prefix}{name}", _text(value), _text(usual), field.description or ""))
    return tuple(rows)


def _changed_entries(
    usual: Mapping[str, Any], entries: Mapping[str, Any], prefix: str, description: str
) -> list[SettingRow]:
    """Entries of a table of free names that differ: the changed fields of a known one, the whole of a new one."""
    rows: list[SettingRow] = []
    for key, item in entries.items():
        if isinstance(item, Section) and key in usual:
            rows += _changed(usual[key], item, f"{prefix}{key}.")
        elif item != usual.get(key):
            rows.append(SettingRow(f"{prefix}{key}", _text(item), _text(usual.get(key)), description))
    return rows


def _text(value: Any) -> str:
    if value is None:
        return _NONE
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, dict):
        return ", ".join(f"{key} = {_text(item)}" for key, item in value.items())
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | tuple | bool) else str(value)


def _versions(path: Path) -> tuple[tuple[str, str], ...]:
    """The fields of run.json as they stand; nothing where it is missing or torn."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ()
    if not isinstance(record, dict):
        return ()
    # `inputs` repeats the graph and the settings.
    return tuple((str(key), _text(value)) for key, value in record.items() if key != "inputs")


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("eval"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": _number,
        "count": _count,
        "percent": _percent,
        "percent_of": _percent_of,
        "mean_of": lambda items, field: fmean(getattr(item, field) for item in items),
        "size": _size,
        "span": _span,
        "duration": _duration,
        "code": _code,
    }
    environment.globals |= {"policy_name": policy_name, "WEIGHED": WEIGHED, "SAMPLES": SAMPLES, "TEST": TEST}
    return environment


def _number(value: Any, digits: int = 2) -> str:
    """A number with so many digits after the point; a dash where there is none."""
    is_number = isinstance(value, int | float) and math.isfinite(value)
    return f"{value:.{digits}f}".replace("-", "\u2212") if is_number else _NONE


def _count(value: Any) -> str:
    """A whole number with thin spaces between thousands; a dash where there is none."""
    is_number = isinstance(value, int | float) and math.isfinite(value)
    return f"{value:,.0f}".replace(",", "\u202f") if is_number else _NONE


def _percent(share: float | None, digits: int = 0) -> str:
    """A fraction of 1 in percent; a dash where there is none."""
    return f"{_number(100 * share, digits)}\u202f%" if share is not None and math.isfinite(share) else _NONE


def _percent_of(part: float, whole: float, digits: int = 0) -> str:
    """A part of a whole in percent; a dash where there is nothing to divide by."""
    return _percent(part / whole if whole else None, digits)


def _size(size_bytes: float) -> str:
    """Bytes with three digits in a fitting unit, decimal as network rates are; a dash where there are none."""
    if not math.isfinite(size_bytes):
        return _NONE
    power = min(4, math.floor(math.log10(size_bytes)) // 3) if size_bytes >= 1 else 0
    value = size_bytes / 1000**power
    digits = 0 if not power else max(0, 2 - math.floor(math.log10(value)))
    return f"{value:.{digits}f}\u202f{('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def _span(values: Sequence[float], digits: int = 0) -> str:
    """Lowest and highest with a dash between, or the one value where they are alike; a dash where there is none."""
    shown = (
        [_count(value) if digits == 0 else _number(value, digits) for value in (min(values), max(values))]
        if values
        else [_NONE]
    )
    return _NONE.join(dict.fromkeys(shown))


def _duration(seconds: float) -> str:
    """Seconds as `2 h 05 min`, `3 min 20 s` or `8 s`; a dash for none."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    if not round(seconds):
        return _NONE
    if hours:
        return f"{hours} h {minutes_left:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _code(text: str) -> Markup:
    """Text with what stands between backquotes set as code; everything else is escaped."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped first
