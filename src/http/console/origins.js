// What each origin registry is asked, and what it is spared.

import { quantile } from './metrics.js';
import { NOTHING, bytes, chip, count, note, percent, section, span, table, tile, tiles } from './page.js';

export const title = 'Origins';

/** What each origin was spared since the start. */
const reported = ({ offload }) => (offload?.upstreams ?? []).map(({ upstream, since_start: spared }) => ({ name: upstream, ...spared }));
const part = (saved, all) => (all > 0 ? Math.max(0, saved) / all : undefined);

/** Bytes that no upstream had to send, in words and where that is from. Also for the overview. */
export function saved(live) {
  const all = reported(live);
  if (all.length) {
    const total = (key) => all.reduce((sum, each) => sum + (each[key] ?? 0), 0);
    return [bytes(total('saved_bytes')), `${percent(part(total('saved_bytes'), total('bytes')))} of what was served`];
  }
  const { sample } = live;
  const here = sample.sum('outport_response_bytes_total', ({ route, source }) => (route === 'blob' || route === 'manifest') && ['memory', 'disk', 'bucket', 'region'].includes(source));
  return [bytes(here), 'without an upstream'];
}

/** One row for each upstream that was ever asked, or is in the report. */
function rows(live) {
  const { sample } = live;
  const families = ['outport_upstream_requests_total', 'outport_upstream_breaker_open', 'outport_fills_total'];
  const reports = new Map(reported(live).map((each) => [each.name, each]));
  const names = new Set([...reports.keys(), ...families.flatMap((name) => [...sample.by(name, 'upstream').keys()])]);
  return [...names].sort().map((name) => {
    const its = ({ upstream }) => upstream === name;
    const outcomes = sample.by('outport_upstream_requests_total', 'outcome', its);
    const asked = [...outcomes.values()].reduce((sum, value) => sum + value, 0);
    const good = ['2xx', '3xx', '4xx'].reduce((sum, outcome) => sum + (outcomes.get(outcome) ?? 0), 0);
    const report = reports.get(name);
    return {
      name, report, asked,
      errors: asked - good,
      why: [...outcomes].filter(([outcome]) => !['2xx', '3xx', '4xx'].includes(outcome)).map(([outcome, times]) => `${outcome} ${times}`).join(', '),
      bytes: sample.sum('outport_upstream_bytes_total', its),
      first: quantile(0.99, undefined, sample, 'outport_upstream_first_byte_seconds', its),
      open: sample.sum('outport_upstream_breaker_open', its) === 1,
      remaining: sample.points('outport_upstream_rate_limit_remaining', its)[0]?.value,
      retries: sample.sum('outport_upstream_retries_total', its),
      stale: sample.sum('outport_stale_answers_total', its),
    };
  });
}

export function open(place, live) {
  const asked = tile('Asked of origins');
  const spared = tile('Saved');
  const broken = tile('Breakers open');
  const list = table({
    label: 'Origins', key: ({ name }) => name, empty: 'No origin was asked yet.',
    columns: [
      { name: 'Origin', cell: ({ name }) => name },
      { name: 'Circuit', cell: ({ open: isOpen }) => (isOpen ? chip('bad', 'open') : chip('ok', 'closed')), hint: 'Open: it failed too often and is not asked for a while.' },
      { name: 'Served', numeric: true, cell: ({ report }) => count(report?.requests), hint: 'Requests of clients for its content' },
      { name: 'Asked of it', numeric: true, cell: ({ asked: times }) => count(times) },
      { name: 'Requests saved', numeric: true, cell: ({ report }) => count(report?.saved_requests) },
      { name: 'Received', numeric: true, cell: (row) => bytes(row.bytes) },
      { name: 'Bytes saved', numeric: true, cell: ({ report }) => bytes(report?.saved_bytes) },
      { name: 'Hit ratio', numeric: true, cell: ({ report }) => percent(report?.hit_ratio) },
      { name: 'Errors', numeric: true, cell: ({ errors, why }) => (errors ? [chip('bad', count(errors)), ` ${why}`] : '0') },
      { name: 'Asked again', numeric: true, cell: ({ retries }) => count(retries ?? 0) },
      { name: 'Stale answers', numeric: true, cell: ({ stale }) => count(stale ?? 0) },
      { name: 'First byte, p99', numeric: true, cell: ({ first }) => span(first) },
      { name: 'Requests left', numeric: true, cell: ({ remaining }) => (remaining === 0 ? chip('bad', '0') : count(remaining)), hint: 'Of its rate limit, as it last told' },
    ],
  });
  const about = note('\u00a0');
  place.append(tiles(asked, spared, broken), section('Since the start', list.node, about));
  return {
    update() {
      const all = rows(live);
      const open = all.filter((row) => row.open);
      asked.update(count(all.reduce((sum, row) => sum + row.asked, 0)), 'requests since the start');
      spared.update(...saved(live));
      broken.update(String(open.length), open.map(({ name }) => name).join(', ') || 'all origins are asked', open.length ? 'bad' : 'ok');
      list.update(all);
      about.textContent = live.offload === null ? `What was saved for each origin is not available on this edge: ${NOTHING} stands for it.`
        : live.offload === undefined ? 'To see what was saved for each origin you need the role Reader, Contributor or Owner.'
          : 'Served: answers to clients with its content. Saved: those for which it was not asked.';
    },
  };
}
