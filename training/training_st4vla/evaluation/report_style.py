"""The report's style sheet: system fonts, light and dark, from 390 px to wide screens."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #1b1f24; --soft: #57606a; --line: #d5dae1; --band: #f4f6f8;
  --link: #0062a0; --note: #0072b2; --warning: #b34700;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #161a1f; --ink: #e6e9ee; --soft: #a3adb8; --line: #39414b; --band: #1e242b;
    --link: #7cc4f2; --note: #56b4e9; --warning: #e69f00;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink); overflow-wrap: break-word;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif;
}
main, footer { max-width: 60rem; margin: 0 auto; padding: 0 1rem; }
header { padding: 1.75rem 0 0.5rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 0.75rem; padding-top: 0.75rem; border-top: 1px solid var(--line); }
.subtitle { margin: 0.35rem 0 0; color: var(--soft); }
p { margin: 0.6rem 0; max-width: 46rem; }
a { color: var(--link); }
nav ul { display: flex; flex-wrap: wrap; gap: 0.25rem 1.25rem; margin: 0.5rem 0 0; padding: 0; list-style: none; }
figure { margin: 1.25rem 0; }
figcaption { margin-top: 0.4rem; color: var(--soft); font-size: 0.9rem; max-width: 46rem; }
img { display: block; max-width: 100%; height: auto; border-radius: 4px; }
.title { font-weight: 600; margin: 0 0 0.4rem; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px; width: fit-content; max-width: 100%; }
table { border-collapse: collapse; font-size: 0.92rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.4rem 0.8rem; text-align: left; white-space: nowrap; }
td:not(.number) { white-space: normal; max-width: 26rem; }
td:not(.number):first-child { min-width: 6rem; }
th { background: var(--band); font-weight: 600; }
tbody tr { border-top: 1px solid var(--line); }
.number { text-align: right; }
.note, .warning {
  margin: 1rem 0; padding: 0.1rem 1rem; border-left: 4px solid var(--note); background: var(--band);
  border-radius: 0 6px 6px 0;
}
.warning { border-left-color: var(--warning); }
pre {
  margin: 0; padding: 0.75rem 1rem; background: var(--band); border-radius: 6px; font-size: 0.85rem;
  white-space: pre-wrap; overflow-wrap: anywhere;
}
.film video { width: 100%; max-width: 30rem; display: block; margin: 0 auto 0.5rem; }
.film .plot { position: relative; cursor: crosshair; }
.film .plot img { width: 100%; height: auto; display: block; }
.film .cursor { position: absolute; top: 0; bottom: 0; width: 2px; background: var(--warning); pointer-events: none; }
.gallery { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); }
.gallery figure { margin: 0; }
.gallery img, .gallery video { width: 100%; }
footer { margin-top: 3rem; padding-top: 1rem; padding-bottom: 2rem; color: var(--soft); font-size: 0.85rem; }
footer dl {
  display: grid; grid-template-columns: max-content 1fr; gap: 0.2rem 1rem; margin: 0; padding-top: 1rem;
  border-top: 1px solid var(--line);
}
footer dd { margin: 0; overflow-wrap: anywhere; }
footer dt { font-weight: 600; }
@media (max-width: 32rem) {
  h1 { font-size: 1.4rem; }
  table { font-size: 0.87rem; }
  th, td { padding: 0.35rem 0.5rem; }
  th { white-space: normal; vertical-align: bottom; }
  .bounds { display: block; color: var(--soft); font-size: 0.8rem; }
  footer dl { grid-template-columns: 1fr; gap: 0; }
  footer dd { margin-bottom: 0.5rem; }
}
@media print { .scroll { overflow: visible; } }
"""
