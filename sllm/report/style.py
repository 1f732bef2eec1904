"""How the page looks: on a screen of any width, in the dark, and on paper."""

LIGHT = """
--paper:#ffffff;--raised:#f6f8fa;--ink:#1c2128;--muted:#59636e;--line:#d8dee4;--accent:#0b5cad;
--blue:#0072b2;--orange:#d55e00;--green:#009e73;--purple:#aa4499;--amber:#e69f00;--sky:#56b4e9;--grey:#8c959f;
--warn:#fff4dc;--warn-line:#d99a1c;color-scheme:light;
"""

DARK = """
--paper:#14171c;--raised:#1d2229;--ink:#e4e8ed;--muted:#9aa5b1;--line:#343b45;--accent:#7db8f5;
--blue:#4aa8e0;--orange:#ff8a3d;--green:#2fc79a;--purple:#d98ad0;--amber:#f2b632;--sky:#8ccdf5;--grey:#8c959f;
--warn:#33290f;--warn-line:#b58418;color-scheme:dark;
"""

CSS = (
    ":root{--font:system-ui,-apple-system,'Segoe UI','Apple SD Gothic Neo','Noto Sans KR','Noto Sans CJK KR',"
    "'Malgun Gothic',sans-serif;"
    + LIGHT
    + "}@media screen and (prefers-color-scheme:dark){:root{"
    + DARK
    + "}}"
    + """
*{box-sizing:border-box}
html{scroll-behavior:smooth;-webkit-text-size-adjust:100%}
@media (prefers-reduced-motion:reduce){html{scroll-behavior:auto}}
body{margin:0;background:var(--paper);color:var(--ink);font:1rem/1.6 var(--font);word-break:keep-all;
overflow-wrap:anywhere}
.page{max-width:58rem;margin:0 auto;padding:1.5rem 1.25rem 4rem}
h1{font-size:2rem;line-height:1.2;margin:0;letter-spacing:-.01em}
h2{font-size:1.35rem;margin:3.5rem 0 .75rem;padding-top:1rem;border-top:1px solid var(--line)}
main section:first-child h2{border:0;margin-top:1rem}
h3{font-size:1.02rem;margin:2rem 0 .5rem}
p{margin:.5rem 0;max-width:46rem}
a{color:var(--accent);text-underline-offset:.15em}
:focus-visible{outline:2px solid var(--accent);outline-offset:2px;border-radius:2px}
.muted,figcaption,.caption,small{color:var(--muted)}
small,figcaption,.caption{font-size:.85rem;line-height:1.5}
header{display:flex;flex-wrap:wrap;gap:.75rem 2rem;justify-content:space-between;align-items:flex-start}
.state{color:var(--muted);margin:.35rem 0 0}
nav{margin:1.25rem 0 0;padding:.6rem 0;border-block:1px solid var(--line);font-size:.92rem}
nav ul{list-style:none;margin:0;padding:0;display:flex;flex-wrap:wrap;gap:.25rem 1.25rem}
nav a{color:inherit;text-decoration:none}nav a:hover{text-decoration:underline}
fieldset{border:0;margin:0;padding:0;display:inline-flex;flex-wrap:wrap;font-size:.88rem;min-width:0}
legend{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
fieldset label{position:relative;border:1px solid var(--line);padding:.2rem .75rem;cursor:pointer;color:var(--muted)}
fieldset label:first-of-type{border-radius:999px 0 0 999px}fieldset label:last-of-type{border-radius:0 999px 999px 0}
fieldset label+label{border-left:0}
fieldset input{position:absolute;opacity:0;inset:0;margin:0;cursor:pointer}
fieldset label:has(:checked){background:var(--ink);color:var(--paper)}
fieldset label:has(:focus-visible){outline:2px solid var(--accent);outline-offset:2px}
.cards{display:flex;flex-wrap:wrap;gap:1px;margin:1.25rem 0;background:var(--line);border:1px solid var(--line);
border-radius:8px;overflow:hidden}
.cards div{background:var(--paper);padding:.8rem 1rem;flex:1 1 10.5rem}
.cards dt{font-size:.85rem;color:var(--muted)}.cards dd{margin:0}
.cards b{display:block;font-size:1.55rem;font-weight:600;line-height:1.3;font-variant-numeric:tabular-nums}
.lead{font-size:1.1rem;max-width:46rem}
.note{background:var(--warn);border-left:3px solid var(--warn-line);padding:.5rem .85rem;border-radius:0 4px 4px 0;
max-width:none}
figure{margin:1.25rem 0;break-inside:avoid}
figure svg{display:block;width:100%;height:auto;overflow:visible}
figcaption{max-width:46rem;margin-top:.35rem}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,24rem),1fr));gap:0 2rem}
.grid figcaption{margin:0 0 .25rem}.grid strong{color:var(--ink);display:block;font-size:.95rem}
.narrow{display:none}
@media screen and (max-width:40rem){.wide{display:none}.narrow{display:block}.page{padding-inline:1rem}
h1{font-size:1.6rem}
.sample{grid-template-columns:minmax(0,1fr)}.sample dd{margin-bottom:.5rem}
.cards div{flex-basis:8.5rem;padding:.6rem .75rem}.cards b{font-size:1.25rem}}
.scroll{overflow-x:auto;margin:.25rem 0 1rem;max-width:100%}
table{border-collapse:collapse;font-size:.88rem;min-width:100%;line-height:1.45}
.caption{margin:1.25rem 0 0}
th,td{text-align:left;padding:.35rem 1rem .35rem 0;border-bottom:1px solid var(--line);vertical-align:top;
white-space:nowrap}
th:last-child,td:last-child{padding-right:0}
thead th{font-weight:500;color:var(--muted);vertical-align:bottom;white-space:nowrap}
tbody th{font-weight:500}
.right{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.long{white-space:pre-wrap;overflow-wrap:anywhere;width:max-content;max-width:min(20rem,60vw)}
details{margin:.75rem 0}summary{cursor:pointer;color:var(--accent);padding:.2rem 0}
pre{background:var(--raised);padding:.85rem 1rem;border-radius:6px;overflow-x:auto;font:.82rem/1.55 ui-monospace,
SFMono-Regular,Menlo,Consolas,'D2Coding',monospace;word-break:normal;overflow-wrap:normal;max-height:34rem}
code{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,'D2Coding',monospace;font-size:.92em}
pre code{font-size:1em}
.stack{display:flex;height:1.6rem;border-radius:4px;overflow:hidden;margin:.75rem 0 .5rem;gap:1px}
.stack i{display:block;min-width:1px}
.key{list-style:none;display:flex;flex-wrap:wrap;gap:.15rem 1.4rem;margin:0 0 1rem;padding:0;font-size:.88rem}
.key i{display:inline-block;width:.75em;height:.75em;border-radius:2px;margin-right:.45em}
.key b{font-weight:500;font-variant-numeric:tabular-nums}
.sample{margin:.75rem 0 1.5rem}
.sample{display:grid;grid-template-columns:minmax(6rem,auto) minmax(0,1fr);gap:.4rem 1rem}
.sample dt{font-size:.85rem;line-height:1.9;color:var(--muted);font-variant-numeric:tabular-nums}
.sample dd{margin:0;padding-left:.85rem;border-left:2px solid var(--line);white-space:pre-wrap;max-width:46rem}
.tokens{line-height:2.1}
.tokens span{background:var(--raised);border:1px solid var(--line);border-radius:4px;padding:.08rem .3rem;
margin-right:.2rem;font-size:.88rem;white-space:pre-wrap}
.tokens span.joined{margin-right:0;border-radius:0;border-right:0}
footer{margin-top:4rem;padding-top:1rem;border-top:1px solid var(--line);font-size:.85rem;color:var(--muted)}
:root:has(#language-en:checked) .ko,:root:has(#language-ko:checked) .en{display:none}
.by{display:none}
section:has(#over-steps:checked) .by-steps,section:has(#over-tokens:checked) .by-tokens,
section:has(#over-hours:checked) .by-hours{display:block}
@supports not selector(:has(a)){.by-steps{display:block}}
@media print{
:root{font-size:9.5pt}@page{margin:15mm}
.page{max-width:none;padding:0}.grid{grid-template-columns:1fr 1fr}nav,fieldset{display:none}
h2{break-after:avoid;margin-top:2rem}h3,.caption,figcaption{break-after:avoid}
tr,.cards,.sample dd,.note{break-inside:avoid}
.scroll{overflow:visible}table{font-size:.8rem}
th,td{padding-right:.6rem;white-space:normal;overflow-wrap:break-word}thead th{white-space:normal}
.long{width:auto}pre{white-space:pre-wrap;max-height:none;overflow:visible}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}
}
"""
)
