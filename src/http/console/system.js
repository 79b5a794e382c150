// What this process uses, and what its parts do: processor, memory, descriptors, storage, network, uploads, bucket.

import { chart } from './charts.js';
import { quantile } from './metrics.js';
import { bytes, chip, clock, count, element, percent, rate, section, span, table, tile, tiles } from './page.js';

export const title = 'System';
const PROCESSOR_MS = 30_000;
/** Of the disk, at least. */
const FREE = 0.1;

const perSecond = (value) => `${bytes(value)}/s`;

/** Names and values, with one column for each. */
function facts(label) {
  const list = table({
    label, key: ({ name }) => name,
    columns: [{ name: 'What', cell: ({ name }) => name }, { name: 'How much', numeric: true, cell: ({ text, kind }) => (kind ? chip(kind, text) : text) }],
  });
  return { node: list.node, update: (rows) => list.update(rows.filter(Boolean).map(([name, text, kind]) => ({ name, text, kind }))) };
}

/** One row for each value of a label, such as how uploads ended. */
const told = (sample, name, label, words = (value) => value) => [...sample.by(name, label)].map(([value, times]) => [words(value), count(times)]);

export function open(place, live) {
  const processor = tile('Processor');
  const memory = tile('Memory');
  const files = tile('Descriptors');
  const connections = tile('Connections');
  const running = tile('Running for');
  const processors = chart({
    title: 'Processor', about: 'of one core', least: 0.1, unit: 'parts', format: percent, series: [{ key: 'processor', name: 'used', colour: 'line-0' }],
  });
  const resident = chart({ title: 'Memory', about: 'resident', least: 1 << 20, unit: 'bytes', format: bytes, series: [{ key: 'resident', name: 'used', colour: 'line-2' }] });
  const network = chart({
    title: 'Network', about: 'bytes of content', least: 1024, unit: 'bytes', format: perSecond,
    series: [{ key: 'sent', name: 'to clients', colour: 'line-0' }, { key: 'received', name: 'from upstreams', colour: 'line-1' }, { key: 'regions', name: 'from regions', colour: 'line-2' }, { key: 'bucket', name: 'bucket', colour: 'line-3' }],
  });
  const tiers = table({
    label: 'Cache', key: ({ tier }) => tier,
    columns: [
      { name: 'Tier', cell: ({ tier }) => tier },
      { name: 'Used', numeric: true, cell: (row) => bytes(row.used) },
      { name: 'Of', numeric: true, cell: (row) => bytes(row.limit) },
      { name: 'Full', numeric: true, cell: (row) => [percent(row.used / row.limit), ' ', element('meter', { min: 0, max: 1, value: Math.min(1, row.used / row.limit || 0), 'aria-hidden': 'true' })] },
      { name: 'Entries', numeric: true, cell: (row) => count(row.entries) },
      { name: 'Evicted', numeric: true, cell: (row) => count(row.evicted) },
    ],
  });
  const verbs = table({
    label: 'Bucket', key: ({ verb }) => verb, empty: 'The bucket was not asked yet.',
    columns: [
      { name: 'Request', cell: ({ verb }) => verb },
      { name: 'Times', numeric: true, cell: (row) => count(row.times) },
      { name: 'Failed', numeric: true, cell: (row) => (row.failed ? chip('bad', count(row.failed)) : '0') },
      { name: 'p50', numeric: true, cell: (row) => span(row.half) },
      { name: 'p99', numeric: true, cell: (row) => span(row.most) },
    ],
  });
  const parts = Object.fromEntries(['Storage', 'Uploads and transfers', 'Bytes since the start', 'Records', 'Connections', 'Certificates'].map((name) => [name, facts(name)]));
  place.append(
    tiles(processor, memory, files, connections, running),
    element('div', { class: 'charts' }, processors.node, resident.node, network.node),
    element('div', { class: 'halves' }, section('Cache', tiers.node), section('Bucket', verbs.node)),
    element('div', { class: 'thirds' }, Object.entries(parts).map(([name, { node }]) => section(name, node))),
  );

  return {
    update() {
      const { sample } = live;
      const sum = (name, where) => sample.sum(name, where);
      const used = live.growth('process_cpu_seconds_total', undefined, PROCESSOR_MS);
      processor.update(percent(used), `of one core, ${span(sum('process_cpu_seconds_total'))} in all`);
      memory.update(bytes(sum('process_resident_memory_bytes')), `${count(sum('process_threads'))} threads`);
      const [open, most] = ['process_open_fds', 'process_max_fds'].map((name) => sum(name));
      files.update(count(open), `of ${count(most)}`, open / most > 0.8 ? 'bad' : '');
      connections.update(count(sum('outport_connections')), `${rate(live.growth('outport_requests_total'))} requests/s`);
      running.update(span(Date.now() / 1000 - sum('process_start_time_seconds')), `since ${clock(1000 * sum('process_start_time_seconds'))}`);
      for (const each of [processors, resident, network]) each.update(live.history);

      const of = (name, tier) => sample.points(name, (labels) => labels.tier === tier)[0]?.value ?? null;
      tiers.update([...sample.by('outport_cache_limit_bytes', 'tier').keys()].map((tier) => ({
        tier, used: of('outport_cache_bytes', tier), limit: of('outport_cache_limit_bytes', tier), entries: of('outport_cache_entries', tier), evicted: of('outport_cache_evictions_total', tier) ?? 0,
      })));
      verbs.update([...sample.by('outport_bucket_requests_total', 'verb')].sort().map(([verb, times]) => {
        const its = (labels) => labels.verb === verb;
        const took = (q) => quantile(q, undefined, sample, 'outport_bucket_request_seconds', its);
        return { verb, times, failed: sum('outport_bucket_requests_total', (labels) => its(labels) && ['unavailable', 'refused', 'broken'].includes(labels.outcome)), half: took(0.5), most: took(0.99) };
      }));
      const [size, free] = ['outport_disk_bytes', 'outport_disk_free_bytes'].map((name) => sum(name));
      parts.Storage.update([
        size > 0 && ['Free on the disk', `${bytes(free)} of ${bytes(size)}, ${percent(free / size)}`, free / size < FREE ? 'bad' : undefined],
        ['Disk takes writes', sum('outport_disk_unwritable') ? 'no' : 'yes', sum('outport_disk_unwritable') ? 'bad' : 'ok'],
        ['Damaged files found', count(sum('outport_cache_corrupt_total')), sum('outport_cache_corrupt_total') ? 'warn' : undefined],
        ['Ledger at', count(sum('outport_ledger_position'))],
        ['Segments read', count(sum('outport_ledger_folded_segments_total'))],
        ['Bucket\'s clock is ahead', span(sum('outport_bucket_clock_ahead_seconds'))],
      ]);
      parts['Uploads and transfers'].update([
        ['Uploads open', count(sum('outport_uploads_open'))],
        ...told(sample, 'outport_uploads_total', 'outcome', (outcome) => `Uploads ${outcome}`),
        ['Transfers from upstreams', count(sum('outport_fills_in_flight'))],
        ['Clients that wait for them', count(sum('outport_fill_waiters'))],
        ['Transfers taken up again', count(sum('outport_fills_resumed_total'))],
        ['To be copied from regions', `${count(sum('outport_copies_pending'))}, ${bytes(sum('outport_copies_pending_bytes'))}`],
        ['To be passed on', count(sum('outport_forward_pending'))],
      ]);
      const direction = (which) => bytes(sum('outport_bucket_bytes_total', (labels) => labels.direction === which) ?? 0);
      parts['Bytes since the start'].update([
        ['Sent to clients', bytes(sum('outport_response_bytes_total'))],
        ['From upstreams', bytes(sum('outport_upstream_bytes_total') ?? 0)],
        ['From edges of other regions', bytes(sum('outport_peer_bytes_total') ?? 0)],
        ['From their buckets', bytes(sum('outport_peer_bucket_bytes_total') ?? 0)],
        ['To the bucket', direction('sent')],
        ['From the bucket', direction('received')],
      ]);
      const lost = sum('outport_audit_dropped_total') ?? 0;
      parts.Records.update([
        ['Audit records written', count(sum('outport_audit_written_total'))],
        ['Audit records lost', count(lost), lost ? 'bad' : undefined],
        ['Waiting for the bucket', bytes(sum('outport_audit_waiting_bytes'))],
        ['The oldest of them', span(sum('outport_audit_oldest_unshipped_seconds'))],
        ['Log lines dropped', count(sum('outport_log_dropped_total'))],
        ['Kept in the bucket', count(sum('outport_central_log_written_total'))],
        ['Lost on the way there', count(sum('outport_central_log_dropped_total') ?? 0), sum('outport_central_log_dropped_total') ? 'bad' : undefined],
      ]);
      parts.Connections.update([
        ['Open', count(sum('outport_connections'))],
        ...told(sample, 'outport_connections_refused_total', 'reason', (reason) => `Ended: ${reason.replaceAll('_', ' ')}`),
        ...told(sample, 'outport_authentications_total', 'outcome', (outcome) => `Callers ${outcome}`),
        ...told(sample, 'outport_dns_lookups_total', 'outcome', (outcome) => `Names ${outcome}`),
      ]);
      const ends = sample.points('outport_certificate_expiry_timestamp_seconds').map(({ labels, value }) => [labels.certificate, `ends ${clock(value * 1000)}`, value * 1000 < Date.now() ? 'bad' : undefined]);
      parts.Certificates.update(ends.length ? ends : [['None', 'the listeners are plain HTTP']]);
    },
    close() {
      for (const each of [processors, resident, network]) each.close();
    },
  };
}
