"""The page for an operator: one text that needs nothing else, and holds nothing until it has asked `/status`."""

import base64
import hashlib

_STYLE = """
:root { color-scheme: light dark;
  --ground: #f6f6f3; --card: #ffffff; --ink: #22272b; --soft: #6b747b; --line: #e4e4de;
  --good: #3b7d5c; --wait: #a8741a; --bad: #b0413e;
  --good-ground: #e6f1ea; --wait-ground: #fbf1dc; --bad-ground: #fae6e4; }
@media (prefers-color-scheme: dark) { :root {
  --ground: #16191c; --card: #1e2226; --ink: #dfe3e6; --soft: #8d979f; --line: #2c3237;
  --good: #7cc29d; --wait: #e0b25c; --bad: #e88a85;
  --good-ground: #1d2f26; --wait-ground: #33291a; --bad-ground: #3a2221; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 2.2rem 1.4rem 3rem; }
header { display: flex; flex-wrap: wrap; align-items: baseline; gap: .3rem 1rem; margin-bottom: 1.4rem; }
h1 { font-size: 1.35rem; font-weight: 600; letter-spacing: -.01em; margin: 0; }
h2 { font-size: .95rem; font-weight: 600; margin: 0 0 .6rem; }
.soft, header small { color: var(--soft); font-size: .87rem; }
header small { margin-left: auto; }
.state { display: flex; gap: .75rem; align-items: baseline; padding: .8rem 1.1rem; border-radius: 10px;
  margin-bottom: 1.1rem; overflow-wrap: anywhere; }
.state::before { content: ""; flex: none; width: .62rem; height: .62rem; border-radius: 50%; background: currentColor; }
.state b { font-weight: 600; }
.state span { color: var(--ink); }
.good { color: var(--good); } .wait { color: var(--wait); } .bad { color: var(--bad); }
.state.good { background: var(--good-ground); } .state.wait { background: var(--wait-ground); }
.state.bad { background: var(--bad-ground); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.6rem, 1fr));
  gap: .8rem; margin-bottom: 1.1rem; }
.tile, section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.tile { padding: .75rem 1.1rem .8rem; }
.tile strong { display: block; font-size: 1.5rem; font-weight: 600; line-height: 1.3; letter-spacing: -.02em;
  font-variant-numeric: tabular-nums; }
section { padding: 1rem 1.1rem .7rem; margin-bottom: 1.1rem; overflow-x: auto; }
table { width: 100%; border-collapse: collapse; }
th { text-align: left; font-weight: 500; font-size: .8rem; color: var(--soft);
  padding: 0 1rem .35rem 0; white-space: nowrap; }
td { padding: .42rem 1rem .42rem 0; border-top: 1px solid var(--line); vertical-align: top; }
th.n, td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.name { font-weight: 500; overflow-wrap: anywhere; min-width: 7rem; }
td.uid { font: .87rem/1.6 ui-monospace, "SF Mono", Menlo, Consolas, monospace;
  overflow-wrap: anywhere; min-width: 9rem; }
td.why { overflow-wrap: anywhere; width: 45%; min-width: 12rem; }
th.why, td.why { padding-left: 1rem; }
td.why div { max-height: 6em; overflow-y: auto; white-space: pre-line; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: 0 2rem; margin: 0; }
dl div { display: flex; justify-content: space-between; gap: 1rem;
  border-top: 1px solid var(--line); padding: .36rem 0; }
dt { color: var(--soft); overflow-wrap: anywhere; } dd { margin: 0; font-variant-numeric: tabular-nums; }
form { display: flex; gap: .6rem; margin: .2rem 0 .5rem; }
input { flex: 1; max-width: 26rem; padding: .45rem .7rem; font: inherit; color: inherit; background: var(--ground);
  border: 1px solid var(--line); border-radius: 7px; }
button { padding: .45rem 1.1rem; font: inherit; color: var(--card); background: var(--good);
  border: 0; border-radius: 7px; }
[hidden] { display: none !important; }
"""

_SCRIPT = """
'use strict';
const EVERY = 2000, PATIENCE = 8000, HINT = 'It is the BLUESKY_PIPELINE_TOKEN of the service.';
const byId = id => document.getElementById(id);
let token = '', last = 0;

// Text of documents stands in what is shown: it is only ever put in as text, never as markup.
function el(tag, text, kind) {
  const made = document.createElement(tag);
  if (kind) made.className = kind;
  if (text !== undefined) made.textContent = text;
  return made;
}

const number = n => Number(n).toLocaleString('en');
function duration(s) {
  if (s === null || s === undefined) return 'not known';
  s = Math.max(0, s);
  if (s < 1) return s < 0.0005 ? '0 s' : Math.round(s * 1000) + ' ms';
  if (s < 90) return (s < 10 ? s.toFixed(1) : Math.round(s)) + ' s';
  if (s < 5400) return Math.round(s / 60) + ' min';
  return s < 172800 ? (s / 3600).toFixed(1) + ' h' : Math.round(s / 86400) + ' days';
}
function bytes(n) {
  for (const unit of ['B', 'kB', 'MB', 'GB']) {
    if (n < 1000 || unit === 'GB') return (unit === 'B' ? n : n.toFixed(1)) + ' ' + unit;
    n /= 1000;
  }
}

function state(kind, title, text) {
  const box = byId('state');
  box.className = 'state ' + kind;
  box.replaceChildren(el('b', title), el('span', text));
  document.title = title + ' \\u00b7 bluesky-pipeline';
}

function tile(name, value, kind) {
  const made = el('div', undefined, 'tile');
  made.append(el('strong', value, kind), el('span', name, 'soft'));
  return made;
}

// columns: [title, kind of cell]; a row is a list of texts, or of [text, kind] where one is to stand out.
function table(id, columns, rows) {
  byId(id).hidden = rows.length === 0;
  const head = el('tr'), made = el('table');
  for (const [title, kind] of columns) head.append(el('th', title, kind));
  made.append(head);
  for (const row of rows) {
    const line = el('tr');
    row.forEach((cell, i) => {
      const [text, kind] = Array.isArray(cell) ? cell : [cell, ''];
      const made = el('td', undefined, columns[i][1] + ' ' + kind);
      made.append(columns[i][1] === 'why' ? el('div', text) : text);
      line.append(made);
    });
    made.append(line);
  }
  byId(id).querySelector('table').replaceWith(made);
}

const bad = n => [number(n), n > 0 ? 'bad' : ''];

function show(r, now) {
  const runs = r.runs, source = r.source;
  const about = [source.name, 'version ' + r.version, 'up for ' + duration(now - r.started)];
  byId('about').textContent = about.join(' \\u00b7 ');
  const outages = [...Object.values(r.sinks), ...r.projectors].some(each => each.outage);
  const came = source.last_document;
  if (!r.ready) state('bad', 'Not ready', r.why_not_ready);
  else if (outages) state('wait', 'Ready, with an outage', 'What cannot be delivered is kept, and follows.');
  else if (runs.parked) state('wait', 'Ready, with runs that wait', 'They are below, with what they wait for.');
  else if (came) state('good', 'Ready', 'The last document came ' + duration(now - came) + ' ago.');
  else state('good', 'Ready', 'No document has come yet.');
  byId('tiles').replaceChildren(
    tile('behind the source', duration(source.lag_seconds), source.lag_seconds > 60 ? 'wait' : ''),
    tile('documents', number(r.counts.documents || 0)),
    tile('runs open', number(runs.open)),
    tile('runs parked', number(runs.parked), runs.parked ? 'wait' : ''),
    tile('runs failed', number(runs.failed), runs.failed ? 'bad' : ''),
    tile('documents held', number(runs.held)));
  byId('loss').hidden = !source.may_lose;
  table('parked', [['run', 'uid'], ['for', 'n'], ['reason', 'why']],
    r.parked.map(p => [p.uid, duration(now - p.since), p.reason]));
  table('nodes', [['node', 'name'], ['runs begun', 'n'], ['ended', 'n'], ['events', 'n'], ['faults', 'n'],
      ['why nothing came of it', 'why']],
    Object.entries(r.nodes).map(([k, n]) =>
      [k, number(n.begun), number(n.ended), number(n.events), bad(n.faults), n.why]));
  table('sinks', [['sink', 'name'], ['waiting', 'n'], ['dropped', 'n'], ['faults', 'n'], ['outage', 'why']],
    Object.entries(r.sinks).map(([k, s]) => [k, number(s.waiting), bad(s.dropped), bad(s.faults), [s.outage, 'bad']]));
  table('projectors', [['catalog', 'name'], ['behind', 'n'], ['runs level', 'n'], ['refused', 'n'], ['outage', 'why']],
    r.projectors.map(p => [p.target, bytes(p.behind_bytes), number(p.runs_level), bad(p.refused), [p.outage, 'bad']]));
  const pairs = Object.entries(r.counts).map(([k, n]) => [k.replaceAll('_', ' '), number(n)]);
  if (r.snapshots.age_seconds !== null) pairs.push(['last snapshot', duration(r.snapshots.age_seconds) + ' ago']);
  byId('counts').hidden = pairs.length === 0;
  byId('counts').querySelector('dl').replaceChildren(...pairs.map(([k, v]) => {
    const made = el('div');
    made.append(el('dt', k), el('dd', v));
    return made;
  }));
  byId('body').hidden = false;
}

async function ask() {
  const given = token, ended = new AbortController(), timer = setTimeout(() => ended.abort(), PATIENCE);
  const headers = token ? { Authorization: 'Bearer ' + token } : {};
  try {
    const answer = await fetch('status', { headers, signal: ended.signal, cache: 'no-store' });
    byId('token').hidden = answer.status !== 401;
    if (answer.status === 401) {
      byId('body').hidden = true;
      if (given === token) state('wait', 'A token is wanted', token ? 'That was not it.' : HINT);
      return;
    }
    if (!answer.ok) throw new Error(await answer.text());
    show(await answer.json(), Date.parse(answer.headers.get('Date')) / 1000);
    last = Date.now();
  } catch (error) {
    const age = last ? 'What is below is ' + duration((Date.now() - last) / 1000) + ' old. ' : '';
    state('bad', 'No answer', age + error.message);
  } finally {
    clearTimeout(timer);
  }
}

byId('token').addEventListener('submit', event => {
  event.preventDefault();
  token = byId('given').value;
  byId('given').value = '';
  ask();
});
(async function again() {
  if (!document.hidden) await ask();
  setTimeout(again, EVERY);
})();
document.addEventListener('visibilitychange', () => { if (!document.hidden) ask(); });
"""

_HTML = f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>bluesky-pipeline</title>
<style>{_STYLE}</style>
<main>
<header><h1>bluesky-pipeline</h1><small id="about"></small></header>
<div id="state" class="state wait" role="status"><b>Asking</b><span>how it is</span></div>
<noscript><p>This page needs JavaScript; <a href="status">the report</a> does not.</p></noscript>
<form id="token" hidden>
<input id="given" type="password" autocomplete="off" aria-label="token" placeholder="token" required>
<button>Show</button></form>
<div id="body" hidden>
<div id="tiles" class="tiles"></div>
<p id="loss" class="soft" hidden>This source may lose documents; only a gap in a run tells.</p>
<section id="parked"><h2>Parked runs</h2><table></table></section>
<section id="nodes"><h2>Nodes</h2><table></table></section>
<section id="sinks"><h2>Sinks</h2><table></table></section>
<section id="projectors"><h2>Catalogs</h2><table></table></section>
<section id="counts"><h2>Counts</h2><dl></dl></section>
</div>
</main>
<script>{_SCRIPT}</script>
</html>
"""

PAGE = _HTML.encode()


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


# Only this script and this style, whatever else comes to stand on the page.
CONTENT_SECURITY_POLICY = (
    f"default-src 'self'; script-src {_hash(_SCRIPT)}; style-src {_hash(_STYLE)}; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
