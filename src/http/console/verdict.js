// Is all well? And if not, what is not. The words hold still while nothing changes: they are read out.

import { clock } from './page.js';

const LAG_MS = 10_000;
const EXPIRES_S = 14 * 86_400;
/** Of the disk, at least. */
const FREE = 0.1;
/** Of answers to clients in the last minute. */
const ERRORS = 0.01;

const plural = (count, one, many) => `${count} ${count === 1 ? one : many}`;

/** What is not well, the worst first: `{bad, text, view}`. */
export function problems(live, now = Date.now()) {
  const { status, ready, sample } = live;
  const found = [];
  const bad = (text, view) => found.push({ bad: true, text, view });
  const warn = (text, view) => found.push({ bad: false, text, view });
  const each = (name, fits, tell) => sample.points(name).filter(({ value }) => fits(value)).forEach(({ labels, value }) => tell(labels, value));

  for (const why of ready.failing) bad(`Not ready: ${why}`, 'system');
  if (status.closed) bad(`The region's bucket is not open: ${status.closed}`, 'regions');
  if (status.ledger?.fenced) bad(`This region takes no pushes: ${status.ledger.fenced}`, 'regions');
  for (const peer of status.peers) {
    if (!peer.visible) bad(`${peer.region} cannot be seen since ${clock(peer.blind_since_ms)}`, 'regions');
    else if (peer.behind_ms > LAG_MS) warn(`This region is more than 10 s behind ${peer.region}`, 'regions');
  }
  each('outport_peer_refused_total', (value) => value > 0, ({ region }) => bad(`The ledger of ${region} is not followed any further: somebody has to look`, 'regions'));
  each('outport_disk_unwritable', (value) => value === 1, () => bad('The cache\'s disk takes no writes: it is full or broken', 'system'));
  const free = sample.sum('outport_disk_free_bytes') / sample.sum('outport_disk_bytes');
  if (free < FREE) warn(`Less than ${100 * FREE} % of the disk is free`, 'system');
  each('outport_upstream_breaker_open', (value) => value === 1, ({ upstream }) => bad(`${upstream} is not asked for now: it failed too often`, 'origins'));
  each('outport_certificate_expiry_timestamp_seconds', (value) => value - now / 1000 < EXPIRES_S, ({ certificate }, value) => {
    if (value * 1000 < now) bad(`The certificate ${certificate} has ended`, 'system');
    else warn(`The certificate ${certificate} ends ${clock(value * 1000)}`, 'system');
  });
  if (serverErrors(live) > ERRORS) bad('More than 1 % of the answers of the last minute were errors (5xx)', 'overview');
  for (const why of ready.impaired) warn(`Impaired: ${why}`, 'system');
  if (status.ledger?.conflicts) warn(`${plural(status.ledger.conflicts, 'tag is', 'tags are')} in conflict between regions`, 'regions');
  const dropped = sample.sum('outport_audit_dropped_total');
  if (dropped) warn(`${plural(dropped, 'audit record was', 'audit records were')} lost since the start`, 'system');
  const lines = (sample.sum('outport_log_dropped_total') ?? 0) + (sample.sum('outport_central_log_dropped_total') ?? 0);
  if (lines) warn(`${plural(lines, 'log line was', 'log lines were')} dropped since the start`, 'system');
  each('outport_upstream_rate_limit_remaining', (value) => value === 0, ({ upstream }) => warn(`${upstream} allows no more requests for now`, 'origins'));
  return found.sort((one, other) => other.bad - one.bad);
}

/** The part of answers to clients that are 5xx; nothing of few. */
function serverErrors(live) {
  const rate = (where) => live.growth('outport_requests_total', where, 60_000) ?? 0;
  const asked = ({ route }) => route !== 'peer' && route !== 'ready';
  const all = rate(asked);
  return all > 0.2 ? rate((labels) => asked(labels) && labels.status.startsWith('5')) / all : 0;
}
