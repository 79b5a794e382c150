// What is known of this edge now and of the last minutes: asked every two seconds while somebody looks.

import { Refused, json, raw } from './api.js';
import { Sample, growth, quantile } from './metrics.js';

export const INTERVAL_MS = 2000;
/** Rates are those of so long a time. */
const RATE_MS = 10_000;
const SAMPLES_MS = 62_000;
const HISTORY_MS = 300_000;
/** What answers to clients come from, as the metrics have it. */
export const SOURCES = ['memory', 'disk', 'bucket', 'region', 'upstream', 'none'];
/** What clients of the registry ask, without operators, other regions and this page. */
const CLIENTS = new Set(['version', 'manifest', 'blob', 'tags', 'referrers', 'catalog', 'upload', 'push', 'delete']);
export const ofClients = ({ route }) => CLIENTS.has(route);
const REQUESTS = 'outport_requests_total';
/** What is pulled. */
export const ofContent = ({ route }) => route === 'manifest' || route === 'blob';
/** Had without asking an upstream in the way. */
const isHit = (labels) => ofContent(labels) && ['memory', 'disk', 'bucket', 'region'].includes(labels.source);
const isMiss = (labels) => ofContent(labels) && labels.source === 'upstream';

/** How often what only some may see is asked for. */
const PROVE_MS = 10_000;

export class Live {
  constructor(changed) {
    this.changed = changed;
    this.reset();
    document.addEventListener('visibilitychange', () => (document.hidden ? this.pause() : this.resume()));
  }

  /** Forgets all that it knows. */
  reset() {
    clearTimeout(this.timer);
    this.round = (this.round ?? 0) + 1;
    Object.assign(this, { status: null, ready: null, offload: null, sample: null, samples: [], history: [], provedAt: -Infinity, silentSince: null, heardAt: null, running: false });
  }

  start() {
    this.running = true;
    return this.poll();
  }

  pause() {
    clearTimeout(this.timer);
    this.paused = true;
    if (this.running) this.changed();
  }

  resume() {
    if (!this.paused) return;
    this.paused = false;
    if (this.running) this.poll();
  }

  async poll() {
    clearTimeout(this.timer);
    const round = this.round;
    try {
      // First what needs credentials: without it nothing is asked or shown. Later only now and then: each time is an entry in the audit
      // record, and this listener tells the same to everybody.
      const isDue = performance.now() - this.provedAt >= PROVE_MS;
      const status = isDue ? await json('/outport/v1/status') : JSON.parse((await raw('/status')).text);
      const [metrics, ready, offload] = await Promise.all([raw('/metrics'), raw('/readyz'), isDue ? json('/outport/v1/offload') : this.offload]);
      if (round !== this.round) return;
      if (isDue) this.provedAt = performance.now();
      this.silentSince = null;
      this.heardAt = Date.now();
      Object.assign(this, { status, offload, ready: JSON.parse(ready.text) });
      this.take(new Sample(metrics.text, performance.now()));
    } catch (error) {
      if (round !== this.round) return;
      if (error instanceof Refused && error.status === 401) return;
      this.silentSince ??= this.heardAt ?? Date.now();
      this.trouble = error;
    }
    this.changed();
    if (this.running && !document.hidden) this.timer = setTimeout(() => this.poll(), INTERVAL_MS);
  }

  take(sample) {
    const begun = (each) => each?.sum('process_start_time_seconds');
    // A process that began anew counts from nothing.
    if (this.sample && begun(this.sample) !== begun(sample)) this.samples = [];
    this.samples = this.samples.filter(({ at }) => at > sample.at - SAMPLES_MS);
    this.sample = sample;
    this.samples.push(sample);
    const now = Date.now();
    const figures = { at: now / 1000, ...this.figures() };
    this.history = [...this.history.filter(({ at }) => at > (now - HISTORY_MS) / 1000), figures];
  }

  /** The reading that is so long ago, or the oldest there is; none while there is one only. */
  before(ms = RATE_MS) {
    const found = this.samples.find(({ at }) => at >= this.sample.at - ms - INTERVAL_MS / 2);
    return found === this.sample ? undefined : found;
  }

  growth(name, where, ms) {
    return growth(this.before(ms), this.sample, name, where);
  }

  /** Of the last minute. */
  quantile(q, name, where, ms = 60_000) {
    const before = this.before(ms);
    return before && quantile(q, before, this.sample, name, where);
  }

  /** Of the last so many milliseconds, or since the process began. */
  hitRatio(ms) {
    const before = ms && this.before(ms);
    if (ms && !before) return undefined;
    const [hits, misses] = [isHit, isMiss].map((where) => (this.sample.sum(REQUESTS, where) ?? 0) - (before?.sum(REQUESTS, where) ?? 0));
    return hits + misses ? hits / (hits + misses) : undefined;
  }

  /** What the charts show. */
  figures() {
    const sent = (source) => this.growth('outport_response_bytes_total', (labels) => ofClients(labels) && labels.source === source) ?? null;
    const first = (q) => this.quantile(q, 'outport_first_byte_seconds', ofContent, RATE_MS) ?? null;
    const figures = Object.fromEntries(SOURCES.map((source) => [source, sent(source)]));
    for (const peer of this.status.peers) figures[`lag ${peer.region}`] = peer.behind_ms / 1000;
    return Object.assign(figures, {
      p50: first(0.5),
      p99: first(0.99),
      processor: this.growth('process_cpu_seconds_total', undefined, 30_000) ?? null,
      resident: this.sample.sum('process_resident_memory_bytes') ?? null,
      sent: this.growth('outport_response_bytes_total') ?? null,
      received: this.growth('outport_upstream_bytes_total') ?? null,
      regions: this.growth('outport_peer_bytes_total') ?? null,
      bucket: this.growth('outport_bucket_bytes_total') ?? null,
    });
  }
}
