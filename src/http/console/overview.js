// One look: is all well, what is going on, and how far behind is the farthest region?

import { chart, coloured } from './charts.js';
import { bytes, element, percent, rate, span, tile, tiles } from './page.js';
import { SOURCES, ofClients, ofContent } from './live.js';
import { saved } from './origins.js';
import { problems } from './verdict.js';

const NAMES = { none: 'other' };

export const title = 'Overview';

export function open(place, live) {
  const list = element('ul', { class: 'problems', 'aria-label': 'What is not well' });
  const requests = tile('Requests');
  const sent = tile('Sent');
  const ratio = tile('Hit ratio');
  const half = tile('First byte, p50');
  const most = tile('First byte, p99');
  const spared = tile('Saved');
  const lag = tile('Farthest lag');
  const traffic = chart({
    title: 'Sent to clients, by source', about: 'last 5 minutes', stacked: true, least: 1024, unit: 'bytes', format: (value) => `${bytes(value)}/s`,
    series: SOURCES.map((source) => ({ key: source, name: NAMES[source] ?? source, colour: source })),
  });
  const firstByte = chart({
    title: 'Time to first byte', about: 'manifests and blobs, 10 s each', least: 0.001, unit: 'seconds', format: span,
    series: [{ key: 'p50', name: 'p50', colour: 'line-0' }, { key: 'p99', name: 'p99', colour: 'line-1' }],
  });
  const lags = element('div', { class: 'slot' });
  let regions = null;
  let behind = null;
  place.append(list, tiles(requests, sent, ratio, half, most, spared, lag), element('div', { class: 'charts' }, traffic.node, firstByte.node, lags));

  function updateLags() {
    const names = live.status.peers.map(({ region }) => region);
    if (String(names) !== regions) {
      regions = String(names);
      behind?.close();
      behind = chart({
        title: 'Lag, by region', about: names.length ? 'how far this region is behind' : 'no other region is configured', least: 1, unit: 'seconds', format: span,
        series: coloured(names, (name) => `lag ${name}`),
      });
      lags.replaceChildren(behind.node);
    }
    behind.update(live.history);
  }

  return {
    update() {
      const found = problems(live);
      const text = JSON.stringify(found);
      if (list.dataset.text !== text) {
        list.dataset.text = text;
        list.replaceChildren(...found.map(({ bad, text: what, view }) =>
          element('li', { class: bad ? 'bad' : 'warn' }, element('a', { href: `#/${view}` }, what))));
      }
      list.hidden = found.length === 0;
      const every = live.growth('outport_requests_total', ofClients);
      requests.update(every === undefined ? rate() : `${rate(every)}/s`, 'of clients, last 10 s');
      const out = live.growth('outport_response_bytes_total', ofClients);
      sent.update(out === undefined ? bytes() : `${bytes(out)}/s`, 'to clients, last 10 s');
      ratio.update(percent(live.hitRatio(60_000)), `${percent(live.hitRatio())} since the start`);
      const quantile = (q) => live.quantile(q, 'outport_first_byte_seconds', ofContent);
      half.update(span(quantile(0.5)), 'last minute');
      most.update(span(quantile(0.99)), 'last minute');
      spared.update(...saved(live));
      const { peers } = live.status;
      const farthest = peers.reduce((far, peer) => (peer.behind_ms > (far?.behind_ms ?? -1) ? peer : far), null);
      if (!farthest) lag.update('none', 'no other region');
      else if (farthest.behind_ms === 0) lag.update('level', `with ${peers.length === 1 ? farthest.region : `all ${peers.length}`}`, 'ok');
      else lag.update(span(farthest.behind_ms / 1000), farthest.visible ? `behind ${farthest.region}` : `${farthest.region} cannot be seen`, farthest.visible && farthest.behind_ms <= 10_000 ? '' : 'bad');
      traffic.update(live.history);
      firstByte.update(live.history);
      updateLags();
    },
    close() {
      for (const each of [traffic, firstByte, behind]) each?.close();
    },
  };
}
