"""Owns the house's look of a page: one HTML file without scripts and without network, light or dark, phone or screen.

In: a title and pieces of HTML. Out: the whole document, and the few pieces every page needs: escaped text, tables that
scroll inside their box, embedded pictures, tags. Colour never speaks alone: a sign or a word stands beside it.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Collection, Iterable, Sequence

STYLE = """
:root{color-scheme:light dark;--bg:#fbfbfa;--card:#fff;--ink:#1d2125;--soft:#59626b;--line:#dcdfe3;--blue:#2f6db5;
--good:#1f6f3d;--bad:#b3261e;--open:#8a5a00;--heat:47,109,181;--warm:214,126,20;
--s0:#2f6db5;--s1:#b3521e;--s2:#1f7a5c;--s3:#7a3f9d;--s4:#6b6b00;--s5:#59626b}
@media(prefers-color-scheme:dark){:root{--bg:#15181b;--card:#1e2226;--ink:#e6e8ea;--soft:#a7b0b9;--line:#3a4147;
--blue:#7db4f0;--good:#7ed09b;--bad:#ff8f86;--open:#f2b84b;--heat:70,135,210;--warm:200,120,30;
--s0:#7db4f0;--s1:#f5a06b;--s2:#6fd3ae;--s3:#cda3ea;--s4:#d3d066;--s5:#a7b0b9}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:68rem;margin:0 auto;padding:1rem}
h1{margin:.1rem 0 .6rem;font-size:1.5rem;line-height:1.25;overflow-wrap:anywhere}
h2{margin:2.4rem 0 .6rem;font-size:1.25rem;border-bottom:1px solid var(--line);padding-bottom:.2rem}
h3{margin:1.4rem 0 .3rem;font-size:1rem}
p{margin:.4rem 0;overflow-wrap:anywhere;max-width:75ch}
a{color:var(--blue)}
.small{color:var(--soft);font-size:.875rem}.soft{color:var(--soft)}
.good{color:var(--good)}.bad{color:var(--bad)}.open{color:var(--open)}
code{font-size:.85em;overflow-wrap:anywhere}
.tag{display:inline-block;padding:0 .5em;border:1px solid;border-radius:1em;font-size:.8rem;white-space:nowrap}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(9.5rem,100%),1fr));gap:.5rem}
.tile{background:var(--card);border:1px solid var(--line);border-radius:.4rem;padding:.4rem .6rem;min-width:0;
overflow-wrap:anywhere}
.tile>span{display:block;color:var(--soft);font-size:.8rem}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(19rem,100%),1fr));gap:1rem}.pair>*{min-width:0}
figure{margin:0;min-width:0}figure img,figure video{width:100%;height:auto;display:block;border-radius:.3rem}
figcaption{color:var(--soft);font-size:.85rem;margin:.25rem 0 .6rem;overflow-wrap:anywhere}
.scroll{overflow-x:auto;max-width:100%}
table{border-collapse:collapse;font-size:.9rem;min-width:min(100%,24rem)}
th,td{text-align:left;padding:.3rem .7rem .3rem 0;border-bottom:1px solid var(--line);vertical-align:top}
thead th{color:var(--soft);font-weight:600;vertical-align:bottom}tbody th{font-weight:400;min-width:7rem}
.num{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
@media(max-width:40rem){.num{white-space:normal}.num small{display:block}tbody th{min-width:6.5rem}}
.whole{white-space:nowrap}
svg{display:block;max-width:100%}
details{margin:.6rem 0}summary{cursor:pointer;color:var(--blue)}
@media print{:root{color-scheme:light}body{font-size:12px}main{max-width:none;padding:0}
figure,tr,svg{break-inside:avoid}.scroll{overflow:visible}details>*{display:block}video{display:none}}
"""
"""The style sheet: colours as variables, system fonts only, no column wider than the screen."""


def text(value: object) -> str:
    """Escaped for HTML; file names and sentences may hold anything."""
    return html.escape(str(value), quote=True)


def document(title: str, body: Iterable[str], style: str = "") -> str:
    """The whole page: pieces of HTML under the house's style sheet and `style` on top of it.

    The policy in the head forbids the browser every request, so that a page that needs the network would look broken
    here and not only at the reader's.
    """
    guard = "default-src 'none'; img-src 'self' data:; media-src 'self' data:; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{guard}">'
        f"<title>{text(title)}</title><style>{STYLE}{style}</style></head>\n<body><main>\n"
        + "\n".join(body).replace(" %", "&nbsp;%")
        + "\n</main></body></html>\n"
    )


def section(title: str, *content: str) -> str:
    """A chapter with its heading; an empty string where there is nothing to say."""
    inside = "".join(content)
    name = "-".join(re.findall(r"\w+", title.lower()))
    return f'<section id="{name}"><h2>{text(title)}</h2>{inside}</section>' if inside else ""


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], words: Collection[int] = (0,), caption: str = ""
) -> str:
    """A table of cells that are HTML already, the first column being the name of the row; it scrolls by itself where
    it is too wide. `words`: columns of text, flush left; the others are figures, flush right."""
    kinds = ["" if i in words else " class=num" for i in range(len(head))]
    top = "".join(f"<th scope=col{kind}>{cell}</th>" for kind, cell in zip(kinds, head, strict=True))
    body = "".join(
        f"<tr><th scope=row>{row[0]}</th>"
        + "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds[1:], row[1:], strict=True))
        + "</tr>"
        for row in rows
    )
    label = text(caption or head[0] or "table")
    return (
        f'<div class=scroll tabindex=0 role=region aria-label="{label}"><table><thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def picture(data: bytes, mime: str, words: str) -> str:
    """An embedded picture with its caption, which is its alternative text as well."""
    said = text(words)
    return f'<figure><img alt="{said}" src="{embedded(data, mime)}"><figcaption>{said}</figcaption></figure>'


def embedded(data: bytes, mime: str) -> str:
    """A data URI: the file itself in the page."""
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def tag(words: str, kind: str) -> str:
    """A short word in a frame; `kind`: good, bad, open or soft."""
    return f'<span class="tag {kind}">{text(words)}</span>'
