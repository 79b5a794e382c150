// Who did what, in all regions.

import { Search, input, regions } from './search.js';
import { bytes, chip, choice, digest, element, field, moment, section, span, table } from './page.js';

export const title = 'Audit';
const FIELDS = ['principal', 'repository', 'action', 'outcome', 'address', 'region', 'since', 'until'];
const ACTIONS = ['pull', 'push', 'delete', 'list', 'lock', 'authenticate', 'principal', 'role', 'rule', 'prefetch', 'refresh', 'copy', 'audit', 'logs'];
const KINDS = { allowed: 'ok', denied: 'bad', failed: 'warn' };

export function open(place, live, rest, given) {
  const text = (...more) => input(given, ...more);
  const form = element('form', { class: 'filters', role: 'search', 'aria-label': 'Search of the audit record' },
    field('Principal', text('principal', 'ann, or group:builders')),
    field('Repository', text('repository', 'team/app, or team/**')),
    field('Action', text('action', 'any', 'actions')),
    field('Outcome', choice('outcome', [['', 'Any'], ['allowed', 'Allowed'], ['denied', 'Denied'], ['failed', 'Failed']], given.get('outcome') ?? '')),
    field('Address', text('address', '10.0.0.0/8')),
    field('Region', choice('region', regions(live), given.get('region') ?? '')),
    field('From', text('since', '2h, or 2026-11-29T10:00:00Z')),
    field('Until', text('until', 'now')),
    element('datalist', { id: 'actions' }, ACTIONS.map((action) => element('option', { value: action }))),
    element('button', { class: 'first' }, 'Search'));
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
  const search = new Search({ path: '/outport/v1/audit', view: 'audit', fields: FIELDS, form, list, given });
  place.append(section('Who did what', ...search.nodes));
  search.begin(given);
  return { update() {}, close: () => search.close() };
}
