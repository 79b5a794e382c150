// Elements, tables and figures in words. What a server said becomes text here and nowhere markup.

/** `element('td', {class: 'number'}, 'text', otherElement)`; properties that begin with `on` are listeners. */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith('on')) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, '');
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

/** Sets a text without touching the document when it is there already: nothing is announced or selected anew. */
export function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
export const NOTHING = '–';
const known = (value) => typeof value === 'number' && Number.isFinite(value);

export const count = (value) => (known(value) ? whole.format(value) : NOTHING);

export function rate(value) {
  if (!known(value)) return NOTHING;
  return value >= 100 || value === 0 ? whole.format(value) : value.toPrecision(2);
}

export function bytes(value) {
  if (!known(value)) return NOTHING;
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let unit = 0;
  while (Math.abs(value) >= 1000 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 || Math.abs(value) >= 100 ? whole.format(value) : value.toFixed(1)} ${units[unit]}`;
}

/** Never rounded up to all of it. */
export function percent(value) {
  if (!known(value)) return NOTHING;
  const digits = value <= 0 || value === 1 || (value >= 0.1 && value < 0.99) ? 0 : 1;
  return `${(Math.floor(1000 * value + 1e-9) / 10).toFixed(digits)} %`;
}

/** A span of time, in seconds. */
export function span(seconds) {
  if (!known(seconds)) return NOTHING;
  if (seconds === 0) return '0 s';
  if (seconds < 0.001) return `${(seconds * 1e6).toFixed(0)} µs`;
  if (seconds < 1) return `${(seconds * 1000).toPrecision(seconds < 0.01 ? 2 : 3)} ms`;
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  const [minutes, hours, days] = [60, 3600, 86400].map((unit) => Math.floor(seconds / unit));
  const both = (many, unit, few, smaller) => (few ? `${many} ${unit} ${few} ${smaller}` : `${many} ${unit}`);
  if (hours < 1) return both(minutes, 'min', Math.floor(seconds % 60), 's');
  return days < 1 ? both(hours, 'h', minutes % 60, 'min') : both(days, 'd', hours % 24, 'h');
}

const two = (number) => String(number).padStart(2, '0');

/** The time of day, and the day before it where that is another one. */
export function clock(ms) {
  const time = new Date(ms);
  const text = `${two(time.getHours())}:${two(time.getMinutes())}:${two(time.getSeconds())}`;
  if (time.toDateString() === new Date().toDateString()) return text;
  return `${time.getFullYear()}-${two(time.getMonth() + 1)}-${two(time.getDate())} ${text}`;
}

export const moment = (ms) => element('time', { datetime: new Date(ms).toISOString(), title: new Date(ms).toISOString() }, clock(ms));

/** A digest as people recognize it; the whole of it is its title. */
export function digest(text) {
  const [algorithm, hex = ''] = text.split(':');
  return element('code', { title: text }, `${algorithm}:${hex.slice(0, 12)}`);
}

export const chip = (kind, ...text) => element('span', { class: `chip ${kind}` }, ...text);
export const note = (text) => element('p', { class: 'note' }, text);

/** What is wider than its place scrolls inside it, and then by keyboard too. */
const widths = new ResizeObserver((entries) => entries.forEach(({ target }) => reachable(target.closest('.scroll') ?? target)));
function reachable(box) {
  if (box.scrollWidth > box.clientWidth) box.setAttribute('tabindex', '0');
  else box.removeAttribute('tabindex');
}

const reached = (line) => [...line.querySelectorAll('a, button')];

/**
 * A table whose rows stay in the document as long as they say the same. Columns: `{name, cell(row), numeric, hint}`; `cell` returns a
 * text, an element or several. `key(row)` names a row.
 */
export function table({ label, columns, key, empty = 'Nothing.' }) {
  const head = element('tr', {}, columns.map((column) => element('th', { scope: 'col', class: column.numeric ? 'number' : null, title: column.hint }, column.name)));
  const body = element('tbody');
  const inner = element('table', {}, element('caption', { class: 'unseen' }, label), element('thead', {}, head), body);
  const node = element('div', { class: 'scroll', role: 'region', 'aria-label': label }, inner);
  const shown = new Map();
  widths.observe(node);
  widths.observe(inner);
  return {
    node,
    update(rows) {
      const wanted = new Set();
      let last = null;
      for (const row of rows) {
        const name = String(key(row));
        const text = JSON.stringify(row);
        wanted.add(name);
        let line = shown.get(name);
        if (!line) shown.set(name, (line = { node: element('tr'), text: null }));
        if (line.text !== text) {
          line.text = text;
          // Whoever stands in it goes on standing there.
          const focus = reached(line.node).indexOf(document.activeElement);
          line.node.replaceChildren(...columns.map((column) => element('td', { class: column.numeric ? 'number' : null }, [column.cell(row)].flat())));
          if (focus >= 0) reached(line.node)[focus]?.focus();
        }
        const place = last ? last.nextSibling : body.firstChild;
        if (place !== line.node) body.insertBefore(line.node, place);
        last = line.node;
      }
      for (const [name, line] of shown) {
        if (!wanted.has(name)) {
          line.node.remove();
          shown.delete(name);
        }
      }
      body.querySelector('.empty')?.closest('tr').remove();
      if (rows.length === 0) body.append(element('tr', {}, element('td', { class: 'empty', colspan: columns.length }, empty)));
    },
  };
}

/** A figure with its name, and what it is about in small letters. */
export function tile(name) {
  const value = element('dd', { class: 'value' }, NOTHING);
  const about = element('dd', { class: 'about' }, '\u00a0');
  return {
    node: element('div', { class: 'tile' }, element('dt', {}, name), value, about),
    update(text, more = '\u00a0', kind = '') {
      write(value, text);
      write(about, more);
      value.className = `value ${kind}`;
    },
  };
}

export const tiles = (...all) => element('dl', { class: 'tiles' }, all.map((each) => each.node));

/** A heading and what belongs to it. */
export function section(title, ...children) {
  return element('section', { class: 'card' }, element('h2', {}, title), ...children);
}

export const field = (label, control) => element('label', { class: 'field' }, element('span', {}, label), control);

export function choice(name, options, chosen) {
  return element('select', { name }, options.map(([value, text]) => element('option', { value, selected: value === chosen }, text)));
}
