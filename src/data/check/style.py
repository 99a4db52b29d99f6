"""Owns the look of the check's page: one style sheet, light and dark, from phone to screen. Colours only, no fonts."""

STYLE = """
:root{color-scheme:light dark;--bg:#fbfbfa;--card:#fff;--ink:#1d2125;--soft:#5d666f;--line:#dcdfe3;--blue:#2f6db5;
--error:#b3261e;--warning:#8a5a00;--note:#3c5a78}
@media(prefers-color-scheme:dark){:root{--bg:#15181b;--card:#1e2226;--ink:#e6e8ea;--soft:#a2abb4;--line:#363c42;
--blue:#7db4f0;--error:#ff8a80;--warning:#f2b84b;--note:#9cc0e4}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:64rem;margin:0 auto;padding:1rem}
h1{margin:.5rem 0 0;font-size:1.6rem}h2{margin:2.2rem 0 .6rem;font-size:1.25rem;border-bottom:1px solid var(--line)}
h3{margin:.4rem 0;font-size:1rem}p{margin:.4rem 0;overflow-wrap:anywhere}
.root{color:var(--soft);overflow-wrap:anywhere}.small{color:var(--soft);font-size:.875rem}
code{font-size:.85em;overflow-wrap:anywhere}
.verdict{padding:.6rem .8rem;border-left:4px solid;background:var(--card)}
.verdict.error,article.error{border-color:var(--error)}.verdict.warning,article.warning{border-color:var(--warning)}
.verdict.note,article.note{border-color:var(--note)}
.tag{display:inline-block;padding:0 .5em;border:1px solid;border-radius:1em;font-size:.8rem;white-space:nowrap}
.tag.error{color:var(--error)}.tag.warning{color:var(--warning)}.tag.note{color:var(--note)}
dl{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:.2rem 1rem;margin:0;padding:.6rem .8rem;
background:var(--card);border:1px solid var(--line);border-radius:.4rem}
dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}
@media(max-width:40rem){dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:.4rem}}
details{font-size:.875rem}summary{cursor:pointer;color:var(--soft)}ul{margin:.3rem 0;padding-left:1.2rem}
li{overflow-wrap:anywhere;margin:.2rem 0}
article{background:var(--card);border:1px solid var(--line);border-radius:.4rem;padding:.5rem .8rem;margin:.6rem 0;
overflow-wrap:anywhere}
article.error,article.warning,article.note{border-left-width:4px}
.scenes{display:grid;grid-template-columns:repeat(auto-fill,minmax(16rem,1fr));gap:.8rem}.scenes article{margin:0}
.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(10rem,100%),1fr));gap:.8rem;max-width:48rem}
figure{margin:0}figure img{width:100%;display:block;border-radius:.3rem;image-rendering:auto}
figcaption{color:var(--soft);font-size:.8rem;margin:.2rem 0 .5rem}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.9rem}
th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid var(--line);vertical-align:top}
th{color:var(--soft);font-weight:600}
svg{display:block;max-width:100%}svg .grid{stroke:var(--line);fill:none}
svg .drive{stroke:var(--blue);fill:none;stroke-opacity:.55}svg .start{fill:var(--ink)}
.bars{display:grid;grid-template-columns:max-content 1fr max-content;gap:.25rem .6rem;align-items:center;
font-size:.9rem}
.bars i{display:block;height:.8rem;background:var(--blue);border-radius:.2rem;min-width:1px}
"""
