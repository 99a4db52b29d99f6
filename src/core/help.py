"""Owns the `--help` text of the entry points, made from conf/ alone so that it appears at once.

In: the conf folder and the name of the entry point. Out: text of at most two screens: what it does and its
common commands (the comment that opens conf/<name>.yaml), every group with its options, every root setting.
"""

import textwrap
from pathlib import Path

import yaml

_WIDTH = 110


def help_text(conf: Path, name: str) -> str:
    """The help of `python -m src.<name>`."""
    source = (conf / f"{name}.yaml").read_text(encoding="utf-8")
    lines = [f"python -m src.{name} [group=option] [key=value] ...", "", *_opening_comment(source), ""]
    groups = [line for group, default in _defaults(source) for line in _group_lines(conf, group, default)]
    if groups:
        lines += ["Groups (the default in brackets):", *groups, ""]
    settings = _settings(source)
    if settings:
        lines += ["Settings:", *settings, ""]
    lines += [
        "Every key can be set: data.window=8. -m with comma-separated values runs one arm per value.",
        "--cfg job --resolve prints the composed config, --info defaults where each part comes from.",
    ]
    return "\n".join(lines)


def group_options(conf: Path, group: str) -> list[str]:
    """The options of a group such as `model` or `model/head`: the names of its YAML files."""
    return sorted(path.stem for path in (conf / group).glob("[!_]*.yaml"))  # _…: a base of others


def _opening_comment(source: str) -> list[str]:
    lines = []
    for line in source.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line[1:].removeprefix(" "))
    return lines


def _defaults(source: str) -> list[tuple[str, str | None]]:
    """Group and default option, in the order of the defaults list."""
    found: list[tuple[str, str | None]] = []
    for entry in yaml.safe_load(source).get("defaults", []):
        if isinstance(entry, dict):
            (key, value), *_ = entry.items()
            group = str(key).removeprefix("optional ").removeprefix("override ").split("@")[0].strip()
            if group.split("/")[0] != "hydra":
                found.append((group, None if value is None else str(value)))
    return found


def _group_lines(conf: Path, group: str, default: str | None) -> list[str]:
    lines = []
    options = [f"[{option}]" if option == default else option for option in group_options(conf, group)]
    if options:
        head = f"  {group:<18} "
        lines += textwrap.wrap(
            ", ".join(options),
            _WIDTH,
            initial_indent=head,
            subsequent_indent=" " * len(head),
            break_on_hyphens=False,
        )
    for folder in sorted(path for path in (conf / group).glob("*") if path.is_dir()):
        lines += _group_lines(conf, f"{group}/{folder.name}", None)
    return lines


def _settings(source: str) -> list[str]:
    """Root keys with value and comment, as they stand in the file."""
    groups = {"defaults", "hydra"}
    lines = []
    for line in source.splitlines():
        key = line.split(":", 1)[0]
        if line[:1].isalpha() and ":" in line and key not in groups:
            lines.append(f"  {line}")
    return lines
