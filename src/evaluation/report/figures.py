"""Owns the drawings of report.html: inline SVG and coloured tables, whose text can be selected and whose colours follow
the reader's light or dark mode.

In: plain numbers. Out: HTML. Series differ in colour, dash and marker, and every drawing says in words what it shows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from src.core.page import text

STYLE = """
.chart svg{width:100%;max-width:29rem;font:13px system-ui,sans-serif}.chart text{fill:var(--soft)}
.chart .grid{stroke:var(--line);stroke-width:1}.chart .mark{stroke:var(--soft);stroke-dasharray:2 3}
.chart path{fill:none;stroke-width:2;stroke-linejoin:round}.chart .band{stroke:none;fill-opacity:.16}
.chart .thin path{stroke-width:1.2}
.key{display:flex;flex-wrap:wrap;gap:.2rem 1rem;font-size:.85rem;color:var(--ink)}
.key span{display:inline-flex;align-items:center;gap:.35rem}.key svg{width:28px;height:10px;flex:none}
.key path{fill:none;stroke-width:2}
.whisker{width:72px;height:12px;margin-left:auto;max-width:none}
.whisker .rail{stroke:var(--line)}.whisker .span{stroke:var(--blue);stroke-width:3}.whisker circle{fill:var(--ink)}
.confusion td{text-align:right;font-variant-numeric:tabular-nums;padding:.3rem .5rem;min-width:3.2rem;
border:1px solid var(--line)}.confusion td.hit{outline:2px solid var(--ink);outline-offset:-2px}
.confusion small{color:inherit;display:block}
.confusion th{padding-right:.5rem;max-width:6rem;min-width:0}.confusion thead th{text-align:right}
.strip{display:flex;flex-wrap:wrap;gap:.3rem;margin:.2rem 0 .8rem}
.strip span{padding:.15rem .45rem;border-radius:.3rem;border:1px solid var(--line);text-align:center}
.strip small{display:block;font-size:.75rem}
.heat{display:grid;gap:1px;max-width:14rem}.heat i{aspect-ratio:1;display:block}
""" + "".join(f".s{i}{{stroke:var(--s{i});color:var(--s{i})}}.fill{i}{{fill:var(--s{i})}}" for i in range(6))
"""What the drawings need on top of the house's style sheet."""

_DASHES = ("", "6 4", "2 3", "9 3 2 3", "1 4", "12 4")
_WIDE, _HIGH, _LEFT, _RIGHT, _TOP, _BOTTOM = 400, 220, 52, 10, 10, 40
_POINTS = 160  # a longer series is drawn as the means of this many bins


@dataclass(frozen=True)
class Series:
    """One line: `x`, `y` of equal length, and where known the interval of each y."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float | None] = field(default=())
    high: Sequence[float | None] = field(default=())


def chart(title: str, series: Sequence[Series], x_label: str, y_label: str, mark: float | None = None) -> str:
    """Lines over common axes with their intervals as bands; `mark`: a dashed vertical line at that x,
    which the axis then includes: a checkpoint may count one step more than the last row of the curves.

    Points that are not finite leave a gap. The y axis is logarithmic, and says so, where the positive values span
    more than a factor of 50; else it begins at zero or below.
    """
    series = [_binned(_finite(one)) for one in series]
    series = [one for one in series if one.x]
    if not series:
        return ""
    values = [
        v
        for one in series
        for v in (*one.y, *filter(_known, one.low), *filter(_known, one.high))
        if v is not None
    ]
    lowest, highest = min(values), max(values)
    log = lowest > 0 and highest > 50 * lowest
    bottom, top = (lowest, highest) if log else (min(0.0, lowest), highest)
    if top - bottom < 1e-300:  # equal, or so near that their steps are no numbers any more
        top = bottom + (abs(bottom) or 1.0)
    left, right = min(min(one.x) for one in series), max(max(one.x) for one in series)
    if mark is not None:
        left, right = min(left, mark), max(right, mark)
    right = right if right > left else left + 1

    def px(x: float) -> float:
        return _LEFT + (x - left) / (right - left) * (_WIDE - _LEFT - _RIGHT)

    def py(y: float) -> float:
        share = math.log(y / bottom) / math.log(top / bottom) if log else (y - bottom) / (top - bottom)
        return _HIGH - _BOTTOM - share * (_HIGH - _TOP - _BOTTOM)

    parts = []
    for tick in _decades(bottom, top) if log else _ticks(bottom, top):
        parts.append(
            f'<line class=grid x1="{_LEFT}" x2="{_WIDE - _RIGHT}" y1="{py(tick):.1f}" y2="{py(tick):.1f}"/>'
        )
        parts.append(f'<text x="{_LEFT - 6}" y="{py(tick) + 4:.1f}" text-anchor="end">{_short(tick)}</text>')
    whole = all(float(v).is_integer() for one in series for v in one.x)
    for tick in _ticks(left, right, whole=whole):
        parts.append(
            f'<text x="{px(tick):.1f}" y="{_HIGH - _BOTTOM + 16}" text-anchor="middle">{_short(tick)}</text>'
        )
    parts.append(
        f'<text x="{(_LEFT + _WIDE) / 2:.0f}" y="{_HIGH - 6}" text-anchor="middle">{text(x_label)}</text>'
    )
    if mark is not None:
        parts.append(
            f'<line class=mark x1="{px(mark):.1f}" x2="{px(mark):.1f}" y1="{_TOP}" y2="{_HIGH - _BOTTOM}"/>'
        )
    for i, one in enumerate(series):
        band = [
            (x, a, b)
            for x, a, b in zip(one.x, one.low, one.high, strict=False)
            if a is not None and b is not None
        ]
        if len(band) > 1:
            edge = [f"{px(x):.1f},{py(b):.1f}" for x, _, b in band]
            edge += [f"{px(x):.1f},{py(a):.1f}" for x, a, _ in reversed(band)]
            parts.append(f'<polygon class="band fill{i % 6}" points="{" ".join(edge)}"/>')
        points = [(px(x), py(y)) for x, y in zip(one.x, one.y, strict=True)]
        path = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in points)
        parts.append(f'<path class="s{i % 6}" stroke-dasharray="{_DASHES[i % 6]}" d="{path}"/>')
        if len(points) <= 20:
            parts += [f'<circle class="fill{i % 6}" r="2.8" cx="{a:.1f}" cy="{b:.1f}"/>' for a, b in points]
    said = "; ".join(f"{one.name} from {_short(one.y[0])} to {_short(one.y[-1])}" for one in series)
    drawn = _svg(f"{title}: {said}", _WIDE, _HIGH, "".join(parts))
    unit = y_label + (", logarithmic" if log else "")
    head = f"<figcaption><b>{text(title)}</b>, {text(unit)}</figcaption>"
    return f"<figure class=chart>{head}{drawn}{_key(series)}</figure>"


def paths(title: str, recorded: Sequence[Sequence[float]], predicted: Sequence[Sequence[float]]) -> str:
    """Two ways over the ground from above, each a list of (x, y) in m; the robot starts at the ring and looks up."""
    lines = {"recorded": recorded, "predicted": predicted}
    points = [
        (-float(p[1]), -float(p[0])) for line in lines.values() for p in line
    ]  # x ahead is up, y left is left
    if not points:
        return ""
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    size = max(max(xs) - min(xs), max(ys) - min(ys), 0.5) * 1.15
    left, top = (max(xs) + min(xs) - size) / 2, (max(ys) + min(ys) - size) / 2

    def at(p: Sequence[float]) -> str:
        return f"{(-float(p[1]) - left) / size * 200:.1f} {(-float(p[0]) - top) / size * 200:.1f}"

    parts = []
    for metre in range(math.ceil(left), math.floor(left + size) + 1):
        across = f"{(metre - left) / size * 200:.1f}"
        parts.append(f'<line class=grid x1="{across}" x2="{across}" y1="0" y2="200"/>')
    for metre in range(math.ceil(top), math.floor(top + size) + 1):
        down = f"{(metre - top) / size * 200:.1f}"
        parts.append(f'<line class=grid y1="{down}" y2="{down}" x1="0" x2="200"/>')
    for i, line in enumerate(lines.values()):
        parts.append(
            f'<path class="s{i}" stroke-dasharray="{_DASHES[i]}" d="M{"L".join(at(p) for p in line)}"/>'
        )
    start = at(recorded[0]).split() if recorded else ["100", "100"]
    parts.append(f'<circle r="4" cx="{start[0]}" cy="{start[1]}" fill="none" stroke="currentColor"/>')
    drawn = _svg(f"{title}: recorded and predicted path from above, grid 1 m", 200, 200, "".join(parts))
    return f"<figure class=chart>{drawn}<figcaption>{text(title)}</figcaption></figure>"


def legend(names: Sequence[str]) -> str:
    """Which line is which, for drawings that share one."""
    return _key([Series(name, (), ()) for name in names], always=True)


def whisker(value: float | None, low: float | None, high: float | None, full: float = 1.0) -> str:
    """The value as a dot and its interval as a bar, on a rail from 0 to `full`; the figure itself stands beside it."""
    if value is None or full <= 0:
        return ""

    def px(v: float) -> float:
        return 3 + 66 * min(max(v / full, 0.0), 1.0)

    bar = (
        ""
        if low is None or high is None
        else f'<line class=span x1="{px(low):.1f}" x2="{px(high):.1f}" y1="6" y2="6"/>'
    )
    return (
        '<svg class=whisker viewBox="0 0 72 12" aria-hidden=true><line class=rail x1="3" x2="69" y1="6" y2="6"/>'
        f'{bar}<circle cx="{px(value):.1f}" cy="6" r="2.6"/></svg>'
    )


def confusion(classes: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Rows: what was recorded; columns: what the policy says. Colour and percent are shares of the row. A class that
    neither occurs nor is said is left out."""
    used = [i for i in range(len(classes)) if sum(counts[i]) or any(row[i] for row in counts)]
    names = [text(name.replace("_", " ")) for name in classes]
    head = "".join(f"<th scope=col>{names[i]}</th>" for i in used)
    rows = ""
    for i in used:
        total = sum(counts[i])
        cells = ""
        for j in used:
            share = counts[i][j] / total if total else 0.0
            hit = " class=hit" if i == j else ""
            words = f"{counts[i][j]}<small>{100 * share:.0f} %</small>" if counts[i][j] else "·"
            cells += f'<td{hit} style="background:{heat(share)}">{words}</td>'
        rows += f"<tr><th scope=row>{names[i]}<br><span class=small>n={total}</span></th>{cells}</tr>"
    return (
        '<div class="scroll confusion" tabindex=0 role=region aria-label="confusion matrix"><table>'
        f"<thead><tr><th>recorded ↓ said →</th>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def strip(words: Sequence[tuple[str, float | None]], full: float) -> str:
    """A sentence whose words are the stronger coloured the more the action moves without them; `full`: the change
    with the full colour."""
    spans = ""
    for word, change in words:
        shown = "–" if change is None else f"{100 * change:.0f} %"
        colour = heat((change or 0.0) / full if full > 0 else 0.0, "warm")
        spans += f'<span style="background:{colour}">{text(word)}<small>{shown}</small></span>'
    return f"<div class=strip>{spans}</div>"


def grid(values: Sequence[Sequence[float]], words: str) -> str:
    """A map of cells, the stronger coloured the higher."""
    full = max((v for row in values for v in row), default=0.0)
    cells = "".join(
        f'<i style="background:{heat(v / full if full > 0 else 0.0, "warm")}" title="{100 * v:.1f} %"></i>'
        for row in values
        for v in row
    )
    columns = len(values[0]) if values else 1
    style = f"grid-template-columns:repeat({columns},1fr)"
    return (
        f'<figure><div class=heat role=img aria-label="{text(words)}" style="{style}">{cells}</div>'
        f"<figcaption>{text(words)}</figcaption></figure>"
    )


def heat(share: float, hue: str = "heat") -> str:
    """A colour of the page for a share of 0 to 1, weak enough for the text upon it to stay readable."""
    return f"rgba(var(--{hue}),{0.62 * min(max(share, 0.0), 1.0):.2f})"


def _svg(words: str, width: int, height: int, content: str) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role=img aria-label="{text(words)}">{content}</svg>'


def _key(series: Sequence[Series], always: bool = False) -> str:
    if len(series) < 2 and not always:
        return ""
    items = "".join(
        f'<span><svg viewBox="0 0 28 10" aria-hidden=true><path class="s{i % 6}" stroke-dasharray="{_DASHES[i % 6]}" '
        f'd="M0 5H28"/></svg>{text(one.name)}</span>'
        for i, one in enumerate(series)
    )
    return f"<div class=key>{items}</div>"


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _finite(one: Series) -> Series:
    keep = [
        i for i, (x, y) in enumerate(zip(one.x, one.y, strict=True)) if math.isfinite(x) and math.isfinite(y)
    ]
    low = [one.low[i] for i in keep] if one.low else ()
    high = [one.high[i] for i in keep] if one.high else ()
    return Series(one.name, [one.x[i] for i in keep], [one.y[i] for i in keep], low, high)


def _binned(one: Series) -> Series:
    n = len(one.x)
    if n <= _POINTS:
        return one
    edges = [round(i * n / _POINTS) for i in range(_POINTS + 1)]
    pairs = list(zip(edges[:-1], edges[1:], strict=True))
    return Series(one.name, [_mean(one.x[a:b]) for a, b in pairs], [_mean(one.y[a:b]) for a, b in pairs])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _ticks(low: float, high: float, count: int = 4, whole: bool = False) -> list[float]:
    """Round numbers between `low` and `high`, about `count` of them."""
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next((m * power for m in (1, 2, 2.5, 5) if m * power >= raw * 0.999), 10 * power)
    if whole:
        step = max(1.0, float(math.ceil(step)))
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _decades(low: float, high: float) -> list[float]:
    return [10.0**k for k in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]


def _short(value: float) -> str:
    if value != 0 and (abs(value) < 0.001 or abs(value) >= 100_000):
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def columns(rows: Sequence[Mapping[str, float]], x: str, y: str) -> tuple[list[float], list[float]]:
    """The pairs of rows that have both."""
    both = [(row[x], row[y]) for row in rows if x in row and y in row]
    return [a for a, _ in both], [b for _, b in both]
