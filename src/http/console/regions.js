// The regions as this one sees them, what is still to come and to go, and tags about which they disagreed.

import { Pages } from './pages.js';
import { chip, clock, count, bytes, digest, element, moment, note, section, span, table, tile, tiles } from './page.js';

export const title = 'Regions';
const CONFLICTS = 25;

const progress = (done, all) => [`${count(done)} of ${count(all)}`, ' ', element('meter', { min: 0, max: Math.max(1, all), value: Math.min(done, all), 'aria-label': `${done} of ${all}` })];

export function open(place, live) {
  const own = tile('This region');
  const farthest = tile('Cannot be seen');
  const backlog = tile('To be copied here');
  const unknown = tile('Push not known in all');
  const unheld = tile('Push not held in all');
  const disputed = tile('Conflicts');
  const seen = table({
    label: 'Other regions', key: ({ region }) => region, empty: 'No other region is configured.',
    columns: [
      { name: 'Region', cell: ({ region }) => element('b', {}, region) },
      { name: 'Seen', cell: (peer) => (peer.visible ? chip('ok', 'now') : [chip('bad', 'blind'), ` since ${clock(peer.blind_since_ms)}`]) },
      { name: 'Lag', numeric: true, cell: (peer) => (peer.behind_ms === 0 ? 'level' : span(peer.behind_ms / 1000)), hint: 'The age of the oldest event there that is not known here; of a blind region the time since it was seen' },
      { name: 'Events behind', numeric: true, cell: (peer) => (peer.visible ? count(peer.behind_events) : `${count(peer.behind_events)} or more`) },
      { name: 'Known here of it', cell: (peer) => progress(peer.folded, peer.tail) },
      { name: 'It knows of this one', cell: (peer) => (peer.of_us === null ? count(peer.seen_of_us) : progress(peer.seen_of_us, peer.of_us)) },
      { name: 'Incarnation', cell: (peer) => element('code', {}, peer.incarnation ?? '–') },
      { name: 'Why', cell: (peer) => element('span', { class: 'long' }, peer.blind ?? '') },
    ],
  });
  const members = table({
    label: 'Members', key: ({ region, incarnation }) => `${region} ${incarnation}`, empty: 'None is known.',
    columns: [
      { name: 'Region', cell: ({ region }) => region },
      { name: 'Standing', cell: ({ standing }) => chip(standing === 'joined' ? 'ok' : 'warn', standing) },
      { name: 'Incarnation', cell: ({ incarnation }) => element('code', {}, incarnation) },
    ],
  });
  const conflicts = table({
    label: 'Conflicts', key: ({ repository, tag }) => `${repository}:${tag}`, empty: 'Regions agree about every tag.',
    columns: [
      { name: 'Tag', cell: ({ repository, tag }) => [element('a', { href: `#/repositories/${repository}` }, repository), `:${tag}`] },
      { name: 'Winner', cell: ({ winner }) => digest(winner), hint: 'What the tag is in every region' },
      { name: 'Losers', cell: ({ losers }) => losers.flatMap((loser) => [digest(loser), ' ']), hint: 'Still there to be pulled by digest' },
      { name: 'Set', cell: ({ updated_at_ms }) => moment(updated_at_ms) },
      { name: 'Locked', cell: ({ is_locked }) => (is_locked ? chip('warn', 'locked') : 'no') },
    ],
  });
  const pages = new Pages({
    label: 'conflicts', first: `/outport/v1/conflicts?n=${CONFLICTS}`, list: (json) => json.conflicts, show: (rows) => conflicts.update(rows),
  });
  const about = note('\u00a0');
  place.append(
    tiles(own, farthest, backlog, unknown, unheld, disputed),
    section('Other regions', seen.node),
    section('Conflicts', conflicts.node, pages.node),
    section('Members', members.node, about),
  );
  return {
    update() {
      const { ledger, peers, region, backlog: waiting, closed } = live.status;
      const position = ledger ? Number(ledger.position.split('@')[1]) : null;
      const blind = peers.filter((peer) => !peer.visible);
      own.update(region, ledger ? (ledger.fenced ? 'takes no pushes' : `at event ${count(position)}`) : 'its bucket is not open', ledger && !ledger.fenced ? 'ok' : 'bad');
      farthest.update(String(blind.length), blind.map((peer) => peer.region).join(', ') || 'all regions are seen', blind.length ? 'bad' : 'ok');
      backlog.update(count(waiting.contents), `contents, ${bytes(waiting.bytes)}`);
      const age = (ms) => (ms === null ? 'none' : span(ms / 1000));
      unknown.update(age(waiting.oldest_unknown_ms), 'the oldest, by its age');
      unheld.update(age(waiting.oldest_unheld_ms), 'as its policy wants it');
      disputed.update(ledger ? count(ledger.conflicts) : '–', 'of all repositories', ledger?.conflicts ? 'bad' : 'ok');
      seen.update(peers.map((peer) => ({ ...peer, of_us: position })));
      members.update(ledger?.members ?? []);
      about.textContent = ledger ? `This region is ${ledger.position}, node ${ledger.node}, import ${ledger.imports}; outport ${live.status.version}.` : closed ?? '';
      pages.tick();
    },
    close: () => pages.close(),
  };
}
