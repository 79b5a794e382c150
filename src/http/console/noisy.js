// Who asks the most: clients, principals and repositories, from bounded sketches of this edge.

import { Refused, json } from './api.js';
import { told } from './pages.js';
import { bytes, chip, choice, count, element, field, note, percent, section, table } from './page.js';

export const title = 'Noisy';
const KINDS = [['client', 'Clients'], ['principal', 'Principals'], ['repository', 'Repositories']];
const SHOWN = 10;

export function open(place) {
  const measure = choice('measure', [['requests', 'Requests'], ['bytes', 'Bytes']], 'requests');
  const span = choice('window', [['minute', 'Last minute'], ['hour', 'Last hour'], ['day', 'Last day']], 'minute');
  const lists = KINDS.map(([kind, name]) => {
    const list = table({
      label: name, key: (row) => row.name, empty: 'Nobody yet.',
      columns: [
        { name: name.replace(/ies$/, 'y').replace(/s$/, ''), cell: (row) => element('span', { class: 'long' }, row.name) },
        { name: 'How much', numeric: true, cell: (row) => [format(row.count), row.error ? element('small', {}, ` ±${format(row.error)}`) : null].filter(Boolean), hint: 'At most; what is uncertain stands behind it' },
        { name: 'Share', numeric: true, cell: (row) => [percent(row.share), ' ', element('meter', { min: 0, max: 1, value: Math.min(1, row.share ?? 0), 'aria-hidden': 'true' })] },
      ],
    });
    const total = note('\u00a0');
    return { kind, list, total, node: section(name, list.node, total) };
  });
  const said = element('p', { class: 'note', role: 'status' });
  const shown = element('div', { class: 'thirds' }, lists.map(({ node }) => node));
  const form = element('form', { class: 'filters', onsubmit: (event) => event.preventDefault() }, field('By', measure), field('Within', span));
  place.append(form, said, shown);
  let asked = 0;
  // Asking again every two seconds would only fill the audit record with refusals.
  let over = false;
  const format = (value) => (measure.value === 'bytes' ? bytes(value) : count(value));

  async function load() {
    if (over) return;
    const turn = (asked += 1);
    try {
      const query = `measure=${measure.value}&window=${span.value}&n=${SHOWN}`;
      const answer = await json(`/outport/v1/top?${query}`);
      if (turn !== asked) return;
      said.textContent = '';
      for (const { kind, list, total } of lists) {
        const ranking = answer.tables.find(({ by }) => by === kind);
        // The measure is in the row, since it says what the number means.
        list.update(ranking.names.map((entry) => ({ ...entry, error: ranking.error, measure: measure.value })));
        total.textContent = `${format(ranking.total)} ${measure.value === 'bytes' ? 'sent' : 'requests'} in all`;
      }
    } catch (error) {
      if (turn !== asked) return;
      const refused = error instanceof Refused && error.status === 403;
      shown.hidden = form.hidden = over = refused;
      said.replaceChildren(refused ? chip('warn', told(error, 'Contributor or Owner')) : told(error));
    }
  }

  form.addEventListener('change', load);
  return {
    update: load,
    close() {
      asked += 1;
    },
  };
}
