"""Owns what the check's page adds to the house's style sheet (src/core/page.py): severities, cards, drives, bars."""

STYLE = """
:root{--error:var(--bad);--warning:var(--open);--note:#3c5a78}
@media(prefers-color-scheme:dark){:root{--note:#9cc0e4}}
.root{color:var(--soft);overflow-wrap:anywhere}
.verdict{padding:.6rem .8rem;border-left:4px solid;background:var(--card)}
.verdict.error,article.error{border-color:var(--error)}.verdict.warning,article.warning{border-color:var(--warning)}
.verdict.note,article.note{border-color:var(--note)}
.tag.error{color:var(--error)}.tag.warning{color:var(--warning)}.tag.note{color:var(--note)}
dl{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:.2rem 1rem;margin:0;padding:.6rem .8rem;
background:var(--card);border:1px solid var(--line);border-radius:.4rem}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
@media(max-width:40rem){dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:.4rem}}
details{font-size:.875rem}ul{margin:.3rem 0;padding-left:1.2rem}
li{overflow-wrap:anywhere;margin:.2rem 0}
article{background:var(--card);border:1px solid var(--line);border-radius:.4rem;padding:.5rem .8rem;margin:.6rem 0;
overflow-wrap:anywhere}
article.error,article.warning,article.note{border-left-width:4px}article h3{margin:.3rem 0}
.scenes{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(16rem,100%),1fr));gap:.8rem}
.scenes article{margin:0}
.pair{grid-template-columns:repeat(auto-fit,minmax(min(10rem,100%),1fr));max-width:48rem}
svg .grid{stroke:var(--line);fill:none}
svg .drive{stroke:var(--blue);fill:none;stroke-opacity:.55}svg .start{fill:var(--ink)}
.bars{display:grid;grid-template-columns:max-content 1fr max-content;gap:.25rem .6rem;align-items:center;
font-size:.9rem}
.bars i{display:block;height:.8rem;background:var(--blue);border-radius:.2rem;min-width:1px}
"""
