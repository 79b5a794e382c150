// What lies in the registry, where it is held, and the locks on it.

import { Refused, json, page } from './api.js';
import { Pages, told } from './pages.js';
import { bytes, chip, choice, count, digest, element, field, moment, note, section, table } from './page.js';

export const title = 'Repositories';

const SHOWN = 25;
/** Names that are looked at for one page of a filtered list: so many at a time, and so many times. */
const LOOKED = 1000;
const LOOKS = 10;
/** Receipts that are asked for at a time: each asks the other regions. */
const RECEIPTS = 2;

export const open = (place, live, name) => (name ? one(place, live, name) : all(place));

/** A page of the names that contain a text: the catalogue knows no such question. */
async function matching(text, start) {
  const found = [];
  let next = start;
  let last = null;
  for (let look = 0; look < LOOKS && next; look += 1) {
    const answer = await page(next);
    for (const name of answer.json.repositories ?? []) {
      if (found.length === SHOWN && name.includes(text)) return { json: { repositories: found }, next: after(found.at(-1)) };
      if (name.includes(text)) found.push(name);
      last = name;
    }
    next = answer.next;
  }
  return { json: { repositories: found }, next: next && after(last) };
}

const after = (name) => `/acr/v1/_catalog?n=${LOOKED}&last=${encodeURIComponent(name)}`;

function all(place) {
  const filter = element('input', { type: 'search', name: 'filter', autocomplete: 'off', spellcheck: 'false', placeholder: 'part of a name' });
  const list = table({
    label: 'Repositories', key: ({ name }) => name, empty: 'No repository that you may see.',
    columns: [{ name: 'Repository', cell: ({ name }) => element('a', { href: `#/repositories/${name}` }, name) }],
  });
  const first = () => (filter.value.trim() ? `/acr/v1/_catalog?n=${LOOKED}` : `/acr/v1/_catalog?n=${SHOWN}`);
  const pages = new Pages({
    label: 'repositories', first: first(), list: (answer) => answer.repositories ?? [],
    read: (path) => (filter.value.trim() ? matching(filter.value.trim(), path) : page(path)),
    show: (names) => list.update(names.map((name) => ({ name }))),
  });
  let pause;
  filter.addEventListener('input', () => {
    clearTimeout(pause);
    pause = setTimeout(() => pages.begin(first()), 200);
  });
  place.append(section('All that you may see', element('form', { class: 'filters', role: 'search', onsubmit: (event) => event.preventDefault() }, field('Filter', filter)), list.node, pages.node));
  return { update: () => pages.tick(), close: () => pages.close() };
}

/** What a region has of an image, in few words. */
function held(region) {
  if (region.known === false) return chip('plain', `${region.region}: not known`);
  if (region.known === null) return chip('warn', `${region.region}: cannot be told`);
  const kind = region.visible ? '' : ' unseen-now';
  if (region.complete) return chip(`ok${kind}`, `${region.region}: all`);
  const part = region.bytes_total ? Math.floor((100 * region.bytes_held) / region.bytes_total) : 0;
  return chip(`plain${kind}`, region.bytes_held ? `${region.region}: ${part} %` : `${region.region}: by name`);
}

const DOES = {
  deleteEnabled: { name: 'Deletion', forbidden: 'can no longer be deleted', allowed: 'can be deleted again' },
  writeEnabled: { name: 'Changes', forbidden: 'can no longer be changed or deleted', allowed: 'can be changed again' },
};

/** What a button does, in whole words. */
function doing(of, attribute, enable) {
  const what = DOES[attribute].name.toLowerCase();
  return enable ? `Unlock ${of} for ${what}` : `Lock ${of} against ${what}`;
}

/** Asks whether it shall be done; the answer is true or false. */
function confirmed(question, more, word) {
  return new Promise((resolve) => {
    const done = (answer) => () => dialog.close(answer);
    const dialog = element('dialog', { 'aria-labelledby': 'question', onclose: () => { dialog.remove(); resolve(dialog.returnValue === 'yes'); } },
      element('h2', { id: 'question' }, question), element('p', {}, more),
      element('div', { class: 'buttons' },
        element('button', { type: 'button', class: 'first', onclick: done('yes') }, word),
        element('button', { type: 'button', onclick: done('no') }, 'Leave it')));
    document.body.append(dialog);
    dialog.showModal();
  });
}

function one(place, live, name) {
  const said = element('p', { class: 'said', role: 'status', tabindex: -1 });
  // A lock counts as a change: by time, the row would go away under the hand that locks it.
  const order = choice('order', [['', 'By name'], ['timedesc', 'Newest first'], ['timeasc', 'Oldest first']], '');
  const facts = element('p', { class: 'facts' });
  const receipts = new Map();
  const waiting = [];
  let working = 0;
  let sizes = new Map();
  let rows = [];
  let closed = false;
  /** The repository belongs to an upstream: nobody pushes it here, and nothing locks it. */
  const foreign = live.offload.upstreams.some(({ upstream }) => name.startsWith(`${upstream}/`));

  async function change(of, path, attribute, enabled, again) {
    const what = DOES[attribute];
    const more = enabled ? `${of} ${what.allowed}, by whoever has the role for it.` : `${of} ${what.forbidden}, by nobody and in no region, until it is allowed again.`;
    if (!(await confirmed(`${doing(of, attribute, enabled)}?`, more, enabled ? 'Unlock' : 'Lock'))) return said.replaceChildren('Nothing was changed.');
    try {
      await json(path, { method: 'PATCH', body: { [attribute]: enabled } });
      said.replaceChildren(`Done: ${of} ${enabled ? what.allowed : what.forbidden}, in every region that hears of it.`);
    } catch (error) {
      // Without an answer, or with one that came too late, it may have been done all the same.
      const refused = error instanceof Refused && error.status < 500;
      said.replaceChildren(`${refused ? 'Nothing was changed.' : 'It is not known whether it was done: see below.'} ${told(error, `Contributor or Owner on ${name}`)}`);
    }
    await Promise.all([pages.load(), repository()]);
    // Where it was, or, if the row has moved to another page, where it is told.
    return ([...place.querySelectorAll('button[data-lock]')].find(({ dataset }) => dataset.lock === again) ?? said).focus();
  }

  function lock(of, path, attribute, enabled) {
    const id = `${of} ${attribute}`;
    const state = enabled ? chip('plain', 'allowed') : chip('warn', 'locked');
    if (foreign) return [state];
    return [state, ' ', element('button', {
      type: 'button', class: 'small', 'data-lock': id, 'aria-label': doing(of, attribute, !enabled), onclick: () => change(of, path, attribute, !enabled, id),
    }, enabled ? 'Lock' : 'Unlock')];
  }

  const tagPath = (tag) => `/acr/v1/${name}/_tags/${encodeURIComponent(tag)}`;
  const list = table({
    label: `Tags of ${name}`, key: ({ tag }) => tag, empty: 'No tags.',
    columns: [
      { name: 'Tag', cell: ({ tag }) => element('b', {}, tag) },
      { name: 'Digest', cell: (row) => digest(row.digest) },
      { name: 'Size', numeric: true, cell: ({ size }) => bytes(size) },
      { name: 'Set', cell: ({ at }) => moment(Date.parse(at)) },
      { name: 'Held', cell: ({ held: regions, gone }) => (regions ? regions.flatMap((region) => [held(region), ' ']) : gone ?? '…') },
      ...Object.entries(DOES).map(([attribute, what]) => ({ name: what.name, cell: (row) => lock(`${name}:${row.tag}`, tagPath(row.tag), attribute, row[attribute]) })),
    ],
  });
  const draw = () => list.update(rows.map((row) => ({ ...row, size: sizes.get(row.digest), ...receipts.get(row.tag) })));

  /** Asks for the receipts that wait, a few at a time. */
  async function ask() {
    while (waiting.length && !closed) {
      const { tag, digest: of } = waiting.shift();
      try {
        const { regions } = await json(`/outport/v1/replication/${name}/${encodeURIComponent(tag)}`);
        receipts.set(tag, { of, held: regions.map(({ region, visible, known, complete, bytes_held, bytes_total }) => ({ region, visible, known, complete, bytes_held, bytes_total })) });
      } catch (error) {
        receipts.set(tag, { of, gone: error instanceof Refused && error.status === 404 ? 'by no region' : 'cannot be told' });
      }
      if (!closed) draw();
    }
    working -= 1;
  }

  function wantReceipts() {
    waiting.length = 0;
    for (const row of rows) {
      if (foreign) receipts.set(row.tag, { gone: 'a copy at this edge' });
      // What is held everywhere stays held.
      else if (!receipts.get(row.tag)?.held?.every(({ complete, visible }) => complete && visible)) waiting.push(row);
    }
    for (; working < RECEIPTS && waiting.length; working += 1) ask();
  }

  async function measure() {
    const found = new Map(sizes);
    const { manifests = [] } = await json(`/acr/v1/${name}/_manifests?n=${LOOKED}&orderby=timedesc`);
    for (const manifest of manifests) found.set(manifest.digest, manifest.imageSize);
    for (const { digest: of } of rows) {
      if (!found.has(of)) found.set(of, (await json(`/acr/v1/${name}/_manifests/${of}`).catch(() => null))?.manifest?.imageSize);
    }
    sizes = found;
  }

  async function repository() {
    try {
      const { manifestCount, tagCount, createdTime, changeableAttributes: can } = await json(`/acr/v1/${name}`);
      const text = JSON.stringify([manifestCount, tagCount, createdTime, can]);
      if (facts.dataset.text === text) return;
      facts.dataset.text = text;
      facts.replaceChildren(
        `Tags: ${count(tagCount)}. Manifests: ${count(manifestCount)}. Since `, moment(Date.parse(createdTime)), '. ',
        ...Object.entries(DOES).flatMap(([attribute, what]) => [`${what.name}: `, ...lock(name, `/acr/v1/${name}`, attribute, can[attribute]), ' ']));
    } catch (error) {
      facts.replaceChildren(told(error, `Reader on ${name}`));
    }
  }

  const first = () => `/acr/v1/${name}/_tags?n=${SHOWN}${order.value && `&orderby=${order.value}`}`;
  const pages = new Pages({
    label: 'tags', first: first(), list: (answer) => answer.tags ?? [],
    show: async (tags) => {
      rows = tags.map((tag) => ({ tag: tag.name, digest: tag.digest, at: tag.lastUpdateTime, ...tag.changeableAttributes }));
      // What was told of a tag that has moved since is not true of it.
      for (const { tag, digest: of } of rows) if (receipts.get(tag)?.of !== of) receipts.delete(tag);
      draw();
      wantReceipts();
      await measure().catch(() => {});
      if (!closed) draw();
    },
  });
  place.append(
    element('p', { class: 'back' }, element('a', { href: '#/repositories' }, 'All repositories')),
    section(name, facts, said, element('form', { class: 'filters', onsubmit: (event) => event.preventDefault(), onchange: () => pages.begin(first()) }, field('Order', order)), list.node, pages.node,
      note(foreign ? 'This repository belongs to an upstream: what is here are copies, and nothing locks them.' : 'Whoever is denied changes of a tag cannot delete it either.')),
  );
  repository();
  let drawn = 0;
  return {
    update() {
      pages.tick();
      if ((drawn += 1) % 5 === 0) repository();
    },
    close() {
      closed = true;
      pages.close();
    },
  };
}
