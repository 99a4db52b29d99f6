"""Owns `diff=[a,b]`: why two runs differ, and in which figures.

In: two runs of the list. Out: lines on stdout: first what is the same, then config, code, packages, data, machine and
what was measured wherever they are not, then the figures side by side. What a run did not record is said to be
unknown; two unknowns are not "the same".
"""

from collections.abc import Iterator, Mapping
from typing import Any

from src.comparison.listing.command import Entry
from src.comparison.listing.one import main_figures
from src.comparison.listing.screen import number
from src.core.leaves import leaves
from src.experiment.run_record import UNHASHED

_ABSENT = "absent"
_MACHINE = ("host", "system", "python", "cpu", "cores", "memory_gb", "gpus", "cuda")
_FILES = 12
"""Files of changes.diff that are named."""
Pairs = dict[str, tuple[Any, Any]]


def compare(a: Entry, b: Entry) -> None:
    """Print how `a` and `b` differ."""
    print("\n".join(lines(a, b)))


def lines(a: Entry, b: Entry) -> Iterator[str]:
    """The report, line by line."""
    yield f"a  {a.path}  ({a['state']})"
    yield f"b  {b.path}  ({b['state']})"
    same: list[str] = []
    unknown: dict[str, list[str]] = {}
    blocks: list[str] = []
    for name, pair in (
        ("config", _config(a, b)),
        ("code", _code(a, b)),
        ("packages", _section(a, b, "packages")),
        ("data", _data(a, b, ("data_hash", "root"))),
        ("split", _data(a, b, ("split_hash", "split_file"))),
        ("sentences", _words(a, b)),
        ("base model" if _same_frozen(a, b) else "base model (id and revision)", _model(a, b)),
        ("machine", _section(a, b, "machine", _MACHINE)),
        ("evaluation", _section(a, b, "evaluation")),
    ):
        if isinstance(pair, str):
            unknown.setdefault(pair, []).append(name)
        elif not pair:
            same.append(name)
        else:
            blocks += ["", *_table(name, pair)]
    if a.section("code") and b.section("code") and "code" not in same:
        blocks += [f"  {text}" for text in _changes(a, b)]
    yield (
        f"same: {', '.join(f'same {name}' for name in same)}." if same else "same: nothing that was recorded."
    )
    for who, names in unknown.items():
        yield f"unknown, {who}: {', '.join(names)}."
    yield from blocks
    yield from _figures(a, b)


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> Pairs:
    """Key → both values, where they differ; a key that one lacks is `absent` there."""
    keys = [*a, *(key for key in b if key not in a)]
    return {k: (a.get(k, _ABSENT), b.get(k, _ABSENT)) for k in keys if a.get(k, _ABSENT) != b.get(k, _ABSENT)}


def _config(a: Entry, b: Entry) -> Pairs | str:
    if a.config is None or b.config is None:
        return _nobody(a.config is None, b.config is None)
    keep = [{k: v for k, v in one.items() if k not in UNHASHED} for one in (a.config, b.config)]
    return dict(sorted(differing(*keep).items()))


def _code(a: Entry, b: Entry) -> Pairs | str:
    return _section(a, b, "code", ("sha", "dirty", "diff_sha256"))


def _section(a: Entry, b: Entry, name: str, keys: tuple[str, ...] | None = None) -> Pairs | str:
    """Differences of a section of run.json, or who did not record it."""
    one, two = a.section(name), b.section(name)
    if not one or not two:
        return _nobody(not one, not two)
    if keys is not None:
        one, two = ({key: part.get(key) for key in keys} for part in (one, two))
    return differing(dict(leaves(one)), dict(leaves(two)))


def _data(a: Entry, b: Entry, keys: tuple[str, str]) -> Pairs | str:
    """The hash decides; the second key says where the differing thing lies."""
    one, two = (entry.section("data") for entry in (a, b))
    if one.get(keys[0]) is None or two.get(keys[0]) is None:
        return _nobody(one.get(keys[0]) is None, two.get(keys[0]) is None)
    return {} if one[keys[0]] == two[keys[0]] else {key: (one.get(key), two.get(key)) for key in keys}


def _words(a: Entry, b: Entry) -> Pairs | str:
    one, two = (dict(leaves(entry.section("data").get("instruction") or {})) for entry in (a, b))
    if "hash" not in one or "hash" not in two:
        return _nobody("hash" not in one, "hash" not in two)
    return {} if one["hash"] == two["hash"] else differing(one, two)


def _model(a: Entry, b: Entry) -> Pairs | str:
    """What is known of both base models; the fingerprint only where it can tell them apart."""
    one, two = (entry.section("model") for entry in (a, b))
    if not one.get("base_model") or not two.get("base_model"):
        return _nobody(not one.get("base_model"), not two.get("base_model"))
    left_out = "" if _same_frozen(a, b) else "fingerprint"
    found = [
        {
            **{f"base_model.{key}": value for key, value in part["base_model"].items() if key != left_out},
            **dict(leaves({"init_from": part.get("init_from")})),
        }
        for part in (one, two)
    ]
    return differing(*found)


def _same_frozen(a: Entry, b: Entry) -> bool:
    """The fingerprint is one of the frozen weights, so it tells bases apart only where the same ones are frozen."""
    one, two = (entry.section("model").get("base_model") or {} for entry in (a, b))
    if one.get("fingerprint") == two.get("fingerprint"):
        return True
    return not any(key.startswith("model.") for key in differing(a.config or {}, b.config or {}))


def _nobody(a: bool, b: bool) -> str:
    return "neither run recorded it" if a and b else f"{'a' if a else 'b'} did not record it"


def _changes(a: Entry, b: Entry) -> Iterator[str]:
    """Uncommitted changes of both, file by file, where they are not the same."""
    found = [_diffstat(entry) for entry in (a, b)]
    for name, entry, stat in zip("ab", (a, b), found, strict=True):
        if stat is None and entry.section("code").get("dirty"):
            yield f"{name} ran with uncommitted changes that were not kept (no changes.diff)"
    both = [stat or {} for stat in found]
    paths = [
        path for path in sorted(both[0].keys() | both[1].keys()) if both[0].get(path) != both[1].get(path)
    ]
    if paths:
        yield "uncommitted lines, each against its own commit:"
    for path in paths[:_FILES]:
        counts = [f"{name} {_count(stat.get(path))}" for name, stat in zip("ab", both, strict=True)]
        yield f"  {path}: {', '.join(counts)}"
    if len(paths) > _FILES:
        yield f"  and {len(paths) - _FILES} more files, see changes.diff of both"


def _diffstat(entry: Entry) -> dict[str, str] | None:
    """File → its part of changes.diff; None without one."""
    path = entry.folder / "changes.diff"
    if not path.exists():
        return None
    parts: dict[str, str] = {}
    for block in ("\n" + path.read_text(encoding="utf-8", errors="replace")).split("\ndiff --git ")[1:]:
        head, _, body = block.partition("\n")
        parts[head.rsplit(" b/", 1)[-1]] = body
    return parts


def _count(block: str | None) -> str:
    if block is None:
        return "unchanged"
    rows = block.splitlines()
    plus = sum(row.startswith("+") and not row.startswith("+++") for row in rows)
    return f"+{plus} -{sum(row.startswith('-') and not row.startswith('---') for row in rows)}"


def _figures(a: Entry, b: Entry) -> Iterator[str]:
    one, two = a.figures, b.figures
    pairs = differing(one, two)
    equal = len(one.keys() & two.keys()) - sum(_ABSENT not in pair for pair in pairs.values())
    yield ""
    yield f"figures: {len(pairs)} differ, {equal} are equal"
    if not pairs:
        return
    rows = [("", "a", "b", "b - a")]
    first = [key for key in dict.fromkeys([*main_figures(a), *main_figures(b)]) if key in pairs]
    for key in dict.fromkeys([*first, *pairs]):
        x, y = pairs[key]
        numbers = all(isinstance(value, (int, float)) for value in (x, y))
        rows.append((key, number(x), number(y), f"{y - x:+.4g}" if numbers else ""))
    size = [max(len(row[i]) for row in rows) for i in range(4)]
    for key, x, y, change in rows:
        yield f"  {key:<{size[0]}}  {x:>{size[1]}}  {y:>{size[2]}}  {change:>{size[3]}}".rstrip()


def _table(name: str, pairs: Pairs) -> Iterator[str]:
    yield f"{name}: {len(pairs)} differ"
    size = max(len(key) for key in pairs)
    for key, (x, y) in pairs.items():
        left, right = _text(x), _text(y)
        if len(left) + len(right) + size < 90:
            yield f"  {key:<{size}}  {left} → {right}"
        else:
            yield f"  {key}"
            yield f"    a  {left}"
            yield f"    b  {right}"


def _text(value: Any) -> str:
    return "null" if value is None else str(value)
