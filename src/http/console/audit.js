// Who did what, in all regions.

import { Refused, page } from './api.js';
import { Pages, told } from './pages.js';
import { bytes, chip, choice, digest, element, field, moment, section, span, table } from './page.js';

export const title = 'Audit';
const SHOWN = 50;
const FIELDS = ['principal', 'repository', 'action', 'outcome', 'address', 'region', 'since', 'until'];
const ACTIONS = ['pull', 'push', 'delete', 'list', 'lock', 'authenticate', 'principal', 'role', 'rule', 'prefetch', 'refresh', 'copy', 'audit', 'logs'];
const KINDS = { allowed: 'ok', denied: 'bad', failed: 'warn' };

export function open(place, live, rest, given) {
  const text = (name, placeholder, list) => element('input', { name, placeholder, list, value: given.get(name) ?? '', autocomplete: 'off', spellcheck: 'false' });
  const form = element('form', { class: 'filters', role: 'search', 'aria-label': 'Search of the audit record' },
    field('Principal', text('principal', 'ann, or group:builders')),
    field('Repository', text('repository', 'team/app, or team/**')),
    field('Action', text('action', 'any', 'actions')),
    field('Outcome', choice('outcome', [['', 'Any'], ['allowed', 'Allowed'], ['denied', 'Denied'], ['failed', 'Failed']], given.get('outcome') ?? '')),
    field('Address', text('address', '10.0.0.0/8')),
    field('Region', choice('region', [['', 'All'], ...[live.status.region, ...live.status.peers.map(({ region }) => region)].map((name) => [name, name])], given.get('region') ?? '')),
    field('From', text('since', '2h, or 2026-11-29T10:00:00Z')),
    field('Until', text('until', 'now')),
    element('datalist', { id: 'actions' }, ACTIONS.map((action) => element('option', { value: action }))),
    element('button', { class: 'first' }, 'Search'));
  const said = element('p', { class: 'note', role: 'status' });
  const list = table({
    label: 'Entries', key: ({ id }) => id, empty: 'Nothing was found.',
    columns: [
      { name: 'Time', cell: (entry) => moment(Date.parse(entry.time)) },
      { name: 'Region', cell: (entry) => entry.region },
      { name: 'Principal', cell: (entry) => entry.principal },
      { name: 'Action', cell: (entry) => entry.action },
      { name: 'What', cell: (entry) => [entry.repository ?? entry.route, entry.reference && !entry.reference.startsWith('sha') ? `:${entry.reference}` : null, entry.digest ? ' ' : null, entry.digest ? digest(entry.digest) : null].filter(Boolean) },
      { name: 'Outcome', cell: (entry) => [chip(KINDS[entry.outcome] ?? 'plain', entry.outcome), ` ${entry.status}`] },
      { name: 'From', cell: (entry) => [element('span', { title: entry.agent ?? '' }, entry.address ?? '–')] },
      { name: 'Bytes', numeric: true, cell: (entry) => bytes(entry.bytes) },
      { name: 'Took', numeric: true, cell: (entry) => span(entry.took_ms / 1000) },
      { name: 'Why, or what', cell: (entry) => element('span', { class: 'long' }, entry.why ?? entry.detail ?? '') },
    ],
  });

  /** Older ones begin where this page ends. Times are those of milliseconds: what is of the very same one is known by its name. */
  async function read(path) {
    const [target, ...seen] = path.split('#');
    const { json } = await page(target);
    const entries = json.entries.filter(({ id }) => !seen.includes(id));
    const last = entries.at(-1);
    if (!json.more || !last) return { json: { ...json, entries }, next: null };
    const query = new URLSearchParams(target.split('?')[1]);
    query.set('until', new Date(Date.parse(last.time) + 1).toISOString());
    const same = entries.filter(({ time }) => time === last.time).map(({ id }) => id);
    return { json: { ...json, entries }, next: [`/outport/v1/audit?${query}`, ...same, ...(seen.length && entries[0]?.time === last.time ? seen : [])].join('#') };
  }

  const results = element('div', {}, list.node);
  const pages = new Pages({
    label: 'entries', first: first(given), list: (json) => json.entries, read,
    show: (rows, json) => {
      list.update(rows);
      const partly = json.regions.filter(({ complete }) => !complete);
      said.textContent = partly.length ? `Not looked through to the end: ${partly.map(({ region, why }) => `${region}${why ? ` (${why})` : ''}`).join('; ')}.` : 'All regions were looked through.';
    },
    failed: (error) => {
      const refused = error instanceof Refused && error.status === 403;
      said.replaceChildren(refused ? chip('warn', told(error, 'Contributor or Owner')) : told(error));
      list.update([]);
      // Who may not read it has nothing to look for.
      for (const each of [form, results, pages.node]) each.hidden = refused;
      return true;
    },
  });

  function first(query) {
    const asked = new URLSearchParams({ limit: SHOWN });
    for (const name of FIELDS) if (query.get(name)) asked.set(name, query.get(name).trim());
    return `/outport/v1/audit?${asked}`;
  }

  form.addEventListener('submit', (event) => {
    event.preventDefault();
    const query = new URLSearchParams([...new FormData(form)].filter(([, value]) => value));
    // A search has an address of its own, that can be given to somebody.
    history.replaceState(null, '', `#/audit${query.size ? `?${query}` : ''}`);
    said.textContent = 'Looking …';
    pages.begin(first(query));
  });
  place.append(section('Who did what', form, said, results, pages.node));
  said.textContent = 'Looking …';
  pages.load();
  return { update() {}, close: () => pages.close() };
}
