// Prometheus' text format, read in the browser, and what can be made of two readings.

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)",?/g;
const ESCAPED = { '\\n': '\n', '\\"': '"', '\\\\': '\\' };
const number = (text) => (text === '+Inf' ? Infinity : text === '-Inf' ? -Infinity : Number(text));

/** What was counted at one time. */
export class Sample {
  constructor(text, at) {
    this.at = at;
    this.families = new Map();
    for (const line of text.split('\n')) {
      const parts = line.startsWith('#') ? null : LINE.exec(line);
      if (!parts) continue;
      const labels = {};
      for (const [, name, value] of (parts[2] ?? '').matchAll(LABEL)) labels[name] = value.replace(/\\[n"\\]/g, (pair) => ESCAPED[pair]);
      const family = this.families.get(parts[1]);
      const point = { labels, value: number(parts[3]) };
      if (family) family.push(point);
      else this.families.set(parts[1], [point]);
    }
  }

  points(name, where = () => true) {
    return (this.families.get(name) ?? []).filter(({ labels }) => where(labels));
  }

  /** Of all series that fit; `undefined` if this edge does not count it. */
  sum(name, where) {
    const points = this.points(name, where);
    return points.length || this.families.has(name) ? points.reduce((total, { value }) => total + value, 0) : undefined;
  }

  /** Sums by the values of one label. */
  by(name, label, where) {
    const sums = new Map();
    for (const { labels, value } of this.points(name, where)) sums.set(labels[label], (sums.get(labels[label]) ?? 0) + value);
    return sums;
  }

  /** Bucket counts by upper bound, together. */
  histogram(name, where) {
    const counts = new Map();
    for (const { labels, value } of this.points(`${name}_bucket`, where)) counts.set(number(labels.le), (counts.get(number(labels.le)) ?? 0) + value);
    return counts;
  }
}

/** How fast a sum grew, in units a second. */
export function growth(before, after, name, where) {
  const [then, now] = [before?.sum(name, where) ?? 0, after.sum(name, where)];
  if (!before || now === undefined || after.at <= before.at) return undefined;
  return Math.max(0, now - then) / ((after.at - before.at) / 1000);
}

/** The quantile of what was observed between two readings (or until the one, if there is none before), linear inside a bucket as PromQL has it. */
export function quantile(q, before, after, name, where) {
  const then = before?.histogram(name, where) ?? new Map();
  const steps = [...after.histogram(name, where)].map(([bound, seen]) => [bound, seen - (then.get(bound) ?? 0)]).sort(([one], [other]) => one - other);
  const total = steps.at(-1)?.[1] ?? 0;
  if (total <= 0) return undefined;
  const rank = q * total;
  let [low, below] = [0, 0];
  for (const [bound, seen] of steps) {
    if (seen >= rank) return bound === Infinity ? low : low + (bound - low) * (seen > below ? (rank - below) / (seen - below) : 1);
    [low, below] = [bound, seen];
  }
  return low;
}
