// The end of this edge's own log, and a search of the lines that all edges have kept.

import { Refused, json } from './api.js';
import { told } from './pages.js';
import { chip, choice, element, field, moment, note, section, table } from './page.js';
import { Search, input, regions } from './search.js';

export const title = 'Log';
const LEVELS = ['ERROR', 'WARN', 'INFO', 'DEBUG', 'TRACE'];
const KINDS = { ERROR: 'bad', WARN: 'warn', INFO: 'plain' };
const FIRST = 200;
const KEPT = 1000;
const FIELDS = ['level', 'principal', 'repository', 'route', 'status', 'address', 'request', 'text', 'requests', 'region', 'since', 'until'];
const ROUTES = ['manifest', 'blob', 'tags', 'referrers', 'upload', 'push', 'delete', 'catalog', 'attributes', 'token', 'exchange', 'peer', 'audit', 'logs'];

const word = (value) => (typeof value === 'string' ? value : JSON.stringify(value));

/** The card of a search; it is asked for at once only where the page's address has something to look for. */
function finding(live, given) {
  const text = (...more) => input(given, ...more);
  const form = element('form', { class: 'filters', role: 'search', 'aria-label': 'Search of the logs of all regions' },
    field('Severity', choice('level', [['', 'Any'], ['error', 'Errors'], ['warn', 'Warnings and errors'], ['info', 'Without debug']], given.get('level') ?? '')),
    field('Principal', text('principal', 'ann')),
    field('Repository', text('repository', 'team/app, or team/**')),
    field('Kind of request', text('route', 'any', 'routes')),
    field('Status', text('status', '404, or 5xx')),
    field('Address', text('address', '10.0.0.0/8')),
    field('Request', text('request', 'its X-Request-Id')),
    field('Says', text('text', 'any text')),
    field('Region', choice('region', regions(live), given.get('region') ?? '')),
    field('From', text('since', '2h, or 2026-11-29T10:00:00Z')),
    field('Until', text('until', 'now')),
    element('label', { class: 'tick' }, element('input', { type: 'checkbox', name: 'requests', value: 'no', checked: given.get('requests') === 'no' }), ' No requests'),
    element('datalist', { id: 'routes' }, ROUTES.map((route) => element('option', { value: route }))),
    element('button', { class: 'first' }, 'Search'));
  const list = table({
    label: 'What was found', key: ({ id }) => id, empty: 'Nothing was found.',
    columns: [
      { name: 'Time', cell: (entry) => moment(Date.parse(entry.time)) },
      { name: 'Region', cell: (entry) => entry.region },
      { name: 'Severity', cell: (entry) => chip(KINDS[entry.level] ?? 'plain', entry.level) },
      { name: 'What', cell: (entry) => element('span', { class: 'long' }, [entry.message, ...Object.entries(entry.fields ?? {}).map(([name, value]) => `${name}=${word(value)}`)].filter(Boolean).join(' ')) },
      { name: 'Where', cell: (entry) => entry.target },
    ],
  });
  const search = new Search({ path: '/outport/v1/logs', view: 'log', fields: FIELDS, form, list, given });
  const card = section('Logs of all regions', note('Finds what edges have kept in their buckets: those with log.central = true.'), ...search.nodes);
  if (FIELDS.some((name) => given.get(name))) search.begin(given);
  return { card, search };
}

export function open(place, live, rest, given) {
  const level = choice('level', LEVELS.map((name) => [name, name === 'ERROR' ? 'Errors' : `${name[0]}${name.slice(1).toLowerCase()} and worse`]), 'INFO');
  const text = element('input', { type: 'search', name: 'text', placeholder: 'any text', autocomplete: 'off', spellcheck: 'false' });
  const requests = element('input', { type: 'checkbox', name: 'requests' });
  const pause = element('button', { type: 'button', 'aria-pressed': 'false', onclick: () => hold(pause.getAttribute('aria-pressed') !== 'true') }, 'Pause');
  const said = element('p', { class: 'note', role: 'status' });
  const lines = element('ol', { class: 'log', tabindex: '0', 'aria-label': 'Lines of the log, the newest last' });
  const form = element('form', { class: 'filters', onsubmit: (event) => event.preventDefault() }, field('Level', level), field('Contains', text), element('label', { class: 'tick' }, requests, ' Lines of requests'), pause);
  const card = section('Tail', form, said, lines);
  const { card: found, search } = finding(live, given);
  place.append(card, found);
  let next = null;
  let kept = [];
  // What was asked for before another choice was made is not shown.
  let turn = 0;
  let asking = null;
  // Closed, or refused: asking again would only fill the audit record with refusals.
  let over = false;

  const words = ({ message, target, fields }) => [message, ...Object.entries(fields ?? {}).map(([name, value]) => `${name}=${word(value)}`), target].join(' ');
  // A line that was cut has no level, and is always shown.
  const levelOf = (line) => line.level?.toUpperCase() ?? '';
  const rank = (line) => LEVELS.indexOf(levelOf(line));
  const fits = (line) => rank(line) <= LEVELS.indexOf(level.value) && words(line).toLowerCase().includes(text.value.trim().toLowerCase());

  function show(line) {
    const name = levelOf(line);
    const fields = Object.entries(line.fields ?? {}).map(([key, value]) => element('span', { class: 'pair' }, ` ${key}=`, element('span', { class: 'of' }, word(value))));
    return element('li', {}, line.at_ms === undefined ? null : [moment(line.at_ms), ' '], chip(KINDS[name] ?? 'plain', name || '–'), ' ',
      element('span', { class: 'message' }, line.message ?? ''), ...fields, ' ', element('span', { class: 'target' }, line.target ?? ''));
  }

  function append(newer) {
    const follows = lines.scrollTop + lines.clientHeight >= lines.scrollHeight - 8;
    lines.append(...newer.filter(fits).map(show));
    while (lines.childElementCount > KEPT) lines.firstChild.remove();
    if (follows) lines.scrollTop = lines.scrollHeight;
  }

  function redraw() {
    lines.replaceChildren();
    append(kept);
    lines.scrollTop = lines.scrollHeight;
  }

  function hold(held) {
    pause.setAttribute('aria-pressed', String(held));
    pause.textContent = held ? 'Go on' : 'Pause';
    said.textContent = held ? 'Paused. What comes meanwhile is shown afterwards.' : '';
    if (!held) load();
  }

  async function load() {
    if (over || asking === turn || pause.getAttribute('aria-pressed') === 'true') return;
    const asked = (asking = turn);
    try {
      const which = `requests=${requests.checked ? 'yes' : 'no'}`;
      const answer = await json(next === null ? `/outport/v1/logs?lines=${FIRST}&${which}` : `/outport/v1/logs?lines=${KEPT}&after=${next}&${which}`);
      if (over || asked !== turn || pause.getAttribute('aria-pressed') === 'true') return;
      // An edge that began anew counts from nothing.
      if (next !== null && answer.next < next) kept = [];
      next = answer.next;
      kept = [...kept, ...answer.lines].slice(-KEPT);
      said.textContent = '';
      if (kept.length === answer.lines.length) redraw();
      else append(answer.lines);
    } catch (error) {
      if (over || asked !== turn) return;
      const refused = error instanceof Refused && error.status === 403;
      form.hidden = lines.hidden = found.hidden = over = refused;
      said.replaceChildren(refused ? chip('warn', told(error, 'Contributor or Owner')) : told(error));
    } finally {
      if (asking === asked) asking = null;
    }
  }

  level.addEventListener('change', redraw);
  text.addEventListener('input', redraw);
  requests.addEventListener('change', () => {
    turn += 1;
    next = null;
    kept = [];
    load();
  });
  return {
    update: load,
    close() {
      over = true;
      search.close();
    },
  };
}
