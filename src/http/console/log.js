// The end of this edge's own log.

import { Refused, available } from './api.js';
import { told } from './pages.js';
import { chip, choice, clock, element, field, section } from './page.js';

export const title = 'Log';
const LEVELS = ['ERROR', 'WARN', 'INFO', 'DEBUG', 'TRACE'];
const KINDS = { ERROR: 'bad', WARN: 'warn', INFO: 'plain' };
const FIRST = 200;
const KEPT = 1000;

export function open(place) {
  const level = choice('level', LEVELS.map((name) => [name, name === 'ERROR' ? 'Errors' : `${name.toLowerCase()} and worse`]), 'INFO');
  const text = element('input', { type: 'search', name: 'text', placeholder: 'any text', autocomplete: 'off', spellcheck: 'false' });
  const pause = element('button', { type: 'button', 'aria-pressed': 'false', onclick: () => hold(pause.getAttribute('aria-pressed') !== 'true') }, 'Pause');
  const said = element('p', { class: 'note', role: 'status' });
  const lines = element('ol', { class: 'log', tabindex: '0', 'aria-label': 'Lines of the log, the newest last' });
  const form = element('form', { class: 'filters', onsubmit: (event) => event.preventDefault() }, field('Level', level), field('Contains', text), pause);
  const card = section('Tail', form, said, lines);
  place.append(card);
  let next = null;
  let kept = [];
  let asking = false;
  let closed = false;

  const words = ({ message, target, fields }) => [message, ...Object.entries(fields ?? {}).map(([name, value]) => `${name}=${typeof value === 'string' ? value : JSON.stringify(value)}`), target].join(' ');
  const rank = (line) => LEVELS.indexOf(String(line.level).toUpperCase());
  const fits = (line) => rank(line) <= LEVELS.indexOf(level.value) && words(line).toLowerCase().includes(text.value.trim().toLowerCase());

  function show(line) {
    const name = String(line.level).toUpperCase();
    const fields = Object.entries(line.fields ?? {}).map(([key, value]) => element('span', { class: 'pair' }, ` ${key}=`, element('span', { class: 'of' }, typeof value === 'string' ? value : JSON.stringify(value))));
    return element('li', {}, element('time', { datetime: new Date(line.at_ms).toISOString() }, clock(line.at_ms)), ' ', chip(KINDS[name] ?? 'plain', name), ' ',
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
    if (asking || pause.getAttribute('aria-pressed') === 'true') return;
    asking = true;
    try {
      const answer = await available(next === null ? `/outport/v1/logs?lines=${FIRST}` : `/outport/v1/logs?lines=${KEPT}&after=${next}`);
      if (closed || pause.getAttribute('aria-pressed') === 'true') return;
      form.hidden = lines.hidden = !answer;
      if (!answer) return void (said.textContent = 'Not available on this edge.');
      // An edge that began anew counts from nothing.
      if (next !== null && answer.next < next) kept = [];
      next = answer.next;
      kept = [...kept, ...answer.lines].slice(-KEPT);
      said.textContent = '';
      if (kept.length === answer.lines.length) redraw();
      else append(answer.lines);
    } catch (error) {
      if (closed) return;
      const refused = error instanceof Refused && error.status === 403;
      form.hidden = lines.hidden = refused;
      said.replaceChildren(refused ? chip('warn', told(error, 'Contributor or Owner')) : told(error));
    } finally {
      asking = false;
    }
  }

  level.addEventListener('change', redraw);
  text.addEventListener('input', redraw);
  return {
    update: load,
    close() {
      closed = true;
    },
  };
}
