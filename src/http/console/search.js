// A search of a record in all regions: its form, what was found page by page, and what was not looked at.

import { Refused, page } from './api.js';
import { Pages, told } from './pages.js';
import { chip, element } from './page.js';

const SHOWN = 50;

/** A control of a search's form, with what the page's address gives. */
export const input = (given, name, placeholder, list) => element('input', { name, placeholder, list, value: given.get(name) ?? '', autocomplete: 'off', spellcheck: 'false' });

/** The regions to choose from. */
export const regions = (live) => [['', 'All'], ...[live.status.region, ...live.status.peers.map(({ region }) => region)].map((name) => [name, name])];

/**
 * What `path` finds for what stands in `form`, shown in `list`. `view` is the page's address, behind which the search stands, so that it
 * can be given to somebody; `fields` are the names that it may have there.
 */
export class Search {
  constructor({ path, view, fields, form, list, given }) {
    Object.assign(this, { path, view, fields, list });
    this.said = element('p', { class: 'note', role: 'status' });
    const results = element('div', { hidden: true }, list.node);
    this.pages = new Pages({
      label: 'entries', first: this.first(given), list: (json) => json.entries, read: (from) => this.read(from),
      show: (rows, json) => {
        list.update(rows);
        const partly = json.regions.filter(({ complete }) => !complete);
        this.said.textContent = partly.length ? `Not looked through to the end: ${partly.map(({ region, why }) => `${region}${why ? ` (${why})` : ''}`).join('; ')}.` : 'All regions were looked through.';
      },
      failed: (error) => {
        const refused = error instanceof Refused && error.status === 403;
        this.said.replaceChildren(refused ? chip('warn', told(error, 'Contributor or Owner')) : told(error));
        list.update([]);
        // Who may not read it has nothing to look for.
        for (const each of [form, results, this.pages.node]) each.hidden = refused;
        return true;
      },
    });
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      const query = new URLSearchParams([...new FormData(form)].filter(([, value]) => value));
      history.replaceState(null, '', `#/${view}${query.size ? `?${query}` : ''}`);
      this.begin(query);
    });
    this.results = results;
    this.nodes = [form, this.said, results, this.pages.node];
  }

  begin(query) {
    this.said.textContent = 'Looking …';
    this.results.hidden = false;
    return this.pages.begin(this.first(query));
  }

  first(query) {
    const asked = new URLSearchParams({ limit: SHOWN });
    for (const name of this.fields) if (query.get(name)) asked.set(name, query.get(name).trim());
    return `${this.path}?${asked}`;
  }

  /** Older ones begin where this page ends. Times are those of milliseconds: what is of the very same one is known by its name. */
  async read(from) {
    const [target, ...seen] = from.split('#');
    const { json } = await page(target);
    const entries = json.entries.filter(({ id }) => !seen.includes(id));
    const last = entries.at(-1);
    if (!json.more || !last) return { json: { ...json, entries }, next: null };
    const query = new URLSearchParams(target.split('?')[1]);
    query.set('until', new Date(Date.parse(last.time) + 1).toISOString());
    const same = entries.filter(({ time }) => time === last.time).map(({ id }) => id);
    return { json: { ...json, entries }, next: [`${this.path}?${query}`, ...same, ...(seen.length && entries[0]?.time === last.time ? seen : [])].join('#') };
  }

  close() {
    this.pages.close();
  }
}
