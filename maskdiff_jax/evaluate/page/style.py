"""The style sheet of the page: light or dark as the reader's system is, one column on a phone and three on a desk."""

# --s0 to --s5 are Okabe and Ito's colours (see curves_picture.COLOURS), lightened where the page is dark.
STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fcfcfa; --card: #ffffff; --ink: #24282d; --quiet: #646a71; --rule: #e3e4e0; --link: #0b5c94;
  --s0: #0072b2; --s1: #d55e00; --s2: #009e73; --s3: #cc79a7; --s4: #e69f00; --s5: #56b4e9;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171a; --card: #1b1f23; --ink: #dfe2e5; --quiet: #989fa7; --rule: #31363c; --link: #74b9ea;
    --s0: #4aa3dc; --s1: #f08a42; --s2: #2fbf95; --s3: #dc97bd; --s4: #edb93c; --s5: #86cbf3;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-padding-top: 1rem; }
body {
  margin: 0 auto; padding: 2.25rem clamp(1rem, 4vw, 3rem) 4rem; max-width: 82rem;
  background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  overflow-wrap: break-word;
}
a { color: var(--link); text-decoration: none; }
a:hover { text-decoration: underline; }
h1 { margin: 0; font-size: clamp(1.7rem, 5vw, 2.4rem); font-weight: 650; letter-spacing: -0.02em; line-height: 1.15; }
h2 { margin: 0 0 1rem; font-size: 1.3rem; font-weight: 620; letter-spacing: -0.01em; }
h3 { margin: 2rem 0 0.75rem; font-size: 1rem; font-weight: 620; }
p { margin: 0 0 1rem; max-width: 46rem; }
header { margin-bottom: 2.5rem; }
.kicker { margin: 0 0 0.4rem; color: var(--quiet); font-size: 0.85rem; }
.summary { margin: 0.75rem 0 0; font-size: 1.05rem; }
.quiet { color: var(--quiet); font-size: 0.88rem; }
nav { margin-top: 1.25rem; font-size: 0.92rem; line-height: 2; }
nav a { margin-right: 1.1rem; white-space: nowrap; }
section { margin: 0 0 3.25rem; padding-top: 1.75rem; border-top: 1px solid var(--rule); }
.tiles {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(min(10rem, 100%), 1fr)); gap: 1.5rem 1.25rem;
  margin: 0;
}
.tiles + * { margin-top: 1.5rem; }
.tiles dt { color: var(--quiet); font-size: 0.85rem; }
.tiles dd { margin: 0; }
.tiles dd.value {
  font-size: 1.65rem; font-weight: 560; letter-spacing: -0.02em; line-height: 1.35;
  font-variant-numeric: tabular-nums;
}
.tiles dd.about { color: var(--quiet); font-size: 0.8rem; line-height: 1.35; }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(21rem, 100%), 1fr)); gap: 2rem 2rem; }
.strip {
  display: grid; align-content: start; gap: 1.25rem 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(9.5rem, 45%), 1fr));
}
.progress { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(30rem, 100%), 1fr)); gap: 1.75rem 2rem; }
.lead { display: grid; grid-template-columns: minmax(0, 44rem); gap: 2rem; }
.lead + .figures { margin-top: 2rem; }
figure { margin: 0; min-width: 0; }
figcaption { margin-top: 0.5rem; color: var(--quiet); font-size: 0.85rem; line-height: 1.45; max-width: 38rem; }
figcaption strong { color: var(--ink); font-weight: 600; }
img { display: block; max-width: 100%; height: auto; border-radius: 4px; image-rendering: pixelated; }
.strip img { width: 100%; image-rendering: auto; }
figure .scroll { margin: 0; }
@media (max-width: 40rem) { figure .scroll img { max-width: 45rem; } }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
.scroll { overflow-x: auto; max-width: 100%; margin: 0 0 1rem; -webkit-overflow-scrolling: touch; }
table { border-collapse: collapse; font-size: 0.88rem; font-variant-numeric: tabular-nums; }
th, td {
  padding: 0.4rem 1.1rem 0.4rem 0; border-bottom: 1px solid var(--rule); text-align: left;
  vertical-align: baseline;
}
td:first-child, th:first-child { position: sticky; left: 0; background: var(--paper); white-space: nowrap; }
th { color: var(--quiet); font-weight: 500; white-space: nowrap; }
td.n, th.n { text-align: right; white-space: nowrap; }
time { white-space: nowrap; }
code, pre { font: 0.86em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
td code { white-space: nowrap; }
td code.long { white-space: normal; overflow-wrap: anywhere; }
pre {
  margin: 0.75rem 0 0; padding: 1rem; overflow-x: auto; background: var(--card); border: 1px solid var(--rule);
  border-radius: 6px;
}
summary { cursor: pointer; color: var(--link); font-size: 0.92rem; }
footer { padding-top: 1.25rem; border-top: 1px solid var(--rule); }
footer p { margin: 0 0 0.4rem; }
"""
