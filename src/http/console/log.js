// The end of this edge's own log.

import { Refused, json } from './api.js';
import { told } from './pages.js';
import { chip, choice, element, field, moment, section } from './page.js';

export const title = 'Log';
const LEVELS = ['ERROR', 'WARN', 'INFO', 'DEBUG', 'TRACE'];
const KINDS = { ERROR: 'bad', WARN: 'warn', INFO: 'plain' };
const FIRST = 200;
const KEPT = 1000;

export function open(place) {
  const level = choice('level', LEVELS.map((name) => [name, name === 'ERROR' ? 'Errors' : `${name[0]}${name.slice(1).toLowerCase()} and worse`]), 'INFO');
  const text = element('input', { type: 'search', name: 'text', placeholder: 'any text', autocomplete: 'off', spellcheck: 'false' });
  const requests = element('input', { type: 'checkbox', name: 'requests' });
  const pause = element('button', { type: 'button', 'aria-pressed': 'false', onclick: () => hold(pause.getAttribute('aria-pressed') !== 'true') }, 'Pause');
  const said = element('p', { class: 'note', role: 'status' });
  const lines = element('ol', { class: 'log', tabindex: '0', 'aria-label': 'Lines of the log, the newest last' });
  const form = element('form', { class: 'filters', onsubmit: (event) => event.preventDefault() }, field('Level', level), field('Contains', text), element('label', { class: 'tick' }, requests, ' Lines of requests'), pause);
  const card = section('Tail', form, said, lines);
  place.append(card);
  let next = null;
  let kept = [];
  // What was asked for before another choice was made is not shown.
  let turn = 0;
  let asking = null;
  // Closed, or refused: asking again would only fill the audit record with refusals.
  let over = false;

  const words = ({ message, target, fields }) => [message, ...Object.entries(fields ?? {}).map(([name, value]) => `${name}=${typeof value === 'string' ? value : JSON.stringify(value)}`), target].join(' ');
  // A line that was cut has no level, and is always shown.
  const levelOf = (line) => line.level?.toUpperCase() ?? '';
  const rank = (line) => LEVELS.indexOf(levelOf(line));
  const fits = (line) => rank(line) <= LEVELS.indexOf(level.value) && words(line).toLowerCase().includes(text.value.trim().toLowerCase());

  function show(line) {
    const name = levelOf(line);
    const fields = Object.entries(line.fields ?? {}).map(([key, value]) => element('span', { class: 'pair' }, ` ${key}=`, element('span', { class: 'of' }, typeof value === 'string' ? value : JSON.stringify(value))));
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
      form.hidden = lines.hidden = over = refused;
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
    },
  };
}
