// Lines over the last minutes, drawn by uPlot, with a legend that says in words what is drawn.

import { NOTHING, clock, element, write } from './page.js';

/* global uPlot */
const HEIGHT = 150;
const SPAN_S = 300;
const LEAST_SPAN_S = 60;

/** Steps of axes that people read at a glance: of times, and of bytes. */
const STEPS = {
  seconds: [...[1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1].flatMap((unit) => [unit, 2 * unit, 5 * unit]), 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400, 172800, 604800],
  bytes: Array.from({ length: 50 }, (_, power) => 2 ** power),
  parts: [0.01, 0.02, 0.05, 0.1, 0.2, 0.25, 0.5, 1, 2, 5, 10],
};
const dark = matchMedia('(prefers-color-scheme: dark)');
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** Lines are told apart by colour and by dashes. */
const DASHES = [undefined, [6, 3], [2, 2], [8, 3, 2, 3]];

/**
 * `series`: `[{key, name, colour}]`, keys of the history's entries; `format(value)` says a value; `stacked`: areas, the first one at the
 * bottom; `unit`: of `STEPS`.
 */
export function chart({ title, about, series, format, unit, stacked = false, least = 1 }) {
  const plotted = element('div', { class: 'plot', role: 'img' });
  const values = new Map(series.map(({ key }) => [key, element('span', { class: 'value' }, NOTHING)]));
  const legend = element('ul', { class: 'legend' }, series.map(({ key, name, colour: of }) =>
    element('li', {}, element('span', { class: `swatch of-${of}` }), name, ' ', values.get(key))));
  const when = element('span', { class: 'when' }, about);
  const node = element('figure', { class: 'card chart' }, element('figcaption', {}, element('h2', {}, title), when), plotted, legend);
  let plot = null;
  let history = [];

  const tell = (entry) => {
    for (const { key } of series) write(values.get(key), format(entry?.[key] ?? undefined));
    write(when, entry && entry !== history.at(-1) ? clock(entry.at * 1000) : about);
  };

  function columns() {
    const lines = series.map(({ key }) => history.map((entry) => entry[key] ?? null));
    if (stacked) {
      // The whole first: what lies before it covers it down to its own height.
      for (let at = 1; at < lines.length; at += 1) lines[at] = lines[at].map((value, index) => (value === null ? null : value + (lines[at - 1][index] ?? 0)));
      lines.reverse();
    }
    return [history.map(({ at }) => at), ...lines];
  }

  function options(width) {
    const axis = { stroke: colour('muted'), grid: { stroke: colour('line'), width: 1 }, ticks: { show: false }, font: '11px system-ui, sans-serif' };
    const drawn = series.map(({ name, colour: of }, index) => ({
      label: name, stroke: colour(of), width: stacked ? 1 : 1.75, fill: stacked ? colour(of) : undefined,
      dash: stacked ? undefined : DASHES[index % DASHES.length], points: { show: false }, spanGaps: false,
    }));
    return {
      width, height: HEIGHT, legend: { show: false }, padding: [8, 8, 0, 0],
      cursor: { y: false, drag: { x: false, y: false }, points: { show: !stacked } },
      scales: {
        x: { range: () => { const end = history.at(-1)?.at ?? Date.now() / 1000; return [Math.max(end - SPAN_S, Math.min(history[0]?.at ?? end, end - LEAST_SPAN_S)), end]; } },
        y: { range: (_, low, high) => [0, Math.max(least, (high ?? 0) * 1.1)] },
      },
      axes: [
        { ...axis, size: 24, space: 80, incrs: [10, 30, 60, 120], values: (_, ticks) => ticks.map((tick) => clock(tick * 1000).slice(-8)) },
        { ...axis, size: 70, space: 30, incrs: STEPS[unit], values: (_, ticks) => ticks.map(format) },
      ],
      series: [{}, ...(stacked ? drawn.reverse() : drawn)],
      hooks: { setCursor: [({ cursor }) => tell(history[cursor.idx ?? -1] ?? history.at(-1))] },
    };
  }

  function draw() {
    plot?.destroy();
    const width = plotted.clientWidth;
    plot = width ? new uPlot(options(width), columns(), plotted) : null;
  }

  const resized = new ResizeObserver(() => (plot && plotted.clientWidth ? plot.setSize({ width: plotted.clientWidth, height: HEIGHT }) : draw()));
  resized.observe(plotted);
  dark.addEventListener('change', draw);
  return {
    node,
    update(newer) {
      history = newer;
      if (plot) plot.setData(columns());
      else draw();
      if (!plot || plot.cursor.idx === null || plot.cursor.idx === undefined || plot.cursor.left < 0) tell(history.at(-1));
      const last = history.at(-1);
      plotted.setAttribute('aria-label', `${title}, ${about}: ${series.map(({ key, name }) => `${name} ${format(last?.[key] ?? undefined)}`).join(', ')}`);
    },
    close() {
      resized.disconnect();
      dark.removeEventListener('change', draw);
      plot?.destroy();
      plot = null;
    },
  };
}

/** Colours of lines that have no meaning of their own, such as those of regions. */
export const coloured = (names, key) => names.map((name, index) => ({ key: key(name), name, colour: `line-${index % 6}` }));
