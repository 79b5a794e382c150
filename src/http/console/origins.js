// What each origin registry is asked, and what it is spared.

import { quantile } from './metrics.js';
import { bytes, chip, count, note, percent, section, span, table, tile, tiles } from './page.js';

export const title = 'Origins';

/** What each origin was spared since the start. */
const reported = ({ offload }) => offload.upstreams.map(({ upstream, since_start: spared }) => ({ name: upstream, ...spared }));
const part = (saved, all) => (all > 0 ? Math.max(0, saved) / all : undefined);

/** Bytes that no upstream had to send, and what part that is. Also for the overview. */
export function saved(live) {
  const all = reported(live);
  const total = (key) => all.reduce((sum, each) => sum + each[key], 0);
  return [bytes(total('saved_bytes')), `${percent(part(total('saved_bytes'), total('bytes')))} of what was served`];
}

/** One row for each upstream. */
function rows(live) {
  const { sample } = live;
  return reported(live).map((report) => {
    const { name } = report;
    const its = ({ upstream }) => upstream === name;
    const outcomes = sample.by('outport_upstream_requests_total', 'outcome', its);
    const asked = [...outcomes.values()].reduce((sum, value) => sum + value, 0);
    const good = ['2xx', '3xx', '4xx'].reduce((sum, outcome) => sum + (outcomes.get(outcome) ?? 0), 0);
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
    label: 'Origins', key: ({ name }) => name, empty: 'No origin is configured.',
    columns: [
      { name: 'Origin', cell: ({ name }) => name },
      { name: 'Circuit', cell: ({ open: isOpen }) => (isOpen ? chip('bad', 'open') : chip('ok', 'closed')), hint: 'Open: it failed too often and is not asked for a while.' },
      { name: 'Served', numeric: true, cell: ({ report }) => count(report.requests), hint: 'Requests of clients for its content' },
      { name: 'Asked of it', numeric: true, cell: ({ asked: times }) => count(times) },
      { name: 'Requests saved', numeric: true, cell: ({ report }) => count(report.saved_requests) },
      { name: 'Received', numeric: true, cell: (row) => bytes(row.bytes) },
      { name: 'Bytes saved', numeric: true, cell: ({ report }) => bytes(report.saved_bytes) },
      { name: 'Hit ratio', numeric: true, cell: ({ report }) => percent(report.hit_ratio) },
      { name: 'Errors', numeric: true, cell: ({ errors, why }) => (errors ? [chip('bad', count(errors)), ` ${why}`] : '0') },
      { name: 'Asked again', numeric: true, cell: ({ retries }) => count(retries ?? 0) },
      { name: 'Stale answers', numeric: true, cell: ({ stale }) => count(stale ?? 0) },
      { name: 'First byte, p99', numeric: true, cell: ({ first }) => span(first) },
      { name: 'Requests left', numeric: true, cell: ({ remaining }) => (remaining === 0 ? chip('bad', '0') : count(remaining)), hint: 'Of its rate limit, as it last told' },
    ],
  });
  place.append(tiles(asked, spared, broken), section('Since the start', list.node, note('Served: answers to clients with its content. Saved: those for which it was not asked.')));
  return {
    update() {
      const all = rows(live);
      const open = all.filter((row) => row.open);
      asked.update(count(all.reduce((sum, row) => sum + row.asked, 0)), 'requests since the start');
      spared.update(...saved(live));
      broken.update(String(open.length), open.map(({ name }) => name).join(', ') || 'all origins are asked', open.length ? 'bad' : 'ok');
      list.update(all);
    },
  };
}
