// A real browser before the console, which notes whatever must not happen. CONSOLE_STAGE, JSON, says where everything is:
// `{modules, chromium, console, secrets, pictures}`.

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { join } from 'node:path';

export const stage = JSON.parse(process.env.CONSOLE_STAGE);
const require = createRequire(join(stage.modules, 'modules.js'));
const { chromium } = require('playwright-core');
const PATIENCE_MS = 30_000;

/** The views, as they stand in the navigation. */
export const VIEWS = ['overview', 'regions', 'origins', 'repositories', 'noisy', 'audit', 'log', 'system'];

/** Asks the edge without the browser, as one of the principals. */
export async function ask(path, { as = 'root', method = 'GET', body } = {}) {
  const headers = { 'X-Requested-With': 'console', Authorization: `Basic ${Buffer.from(`${as}:${stage.secrets[as]}`).toString('base64')}` };
  if (body) headers['Content-Type'] = 'application/json';
  const answer = await fetch(stage.console + path, { method, headers, body: body && JSON.stringify(body) });
  const text = await answer.text();
  return { status: answer.status, text, json: answer.headers.get('content-type')?.includes('json') && text ? JSON.parse(text) : null };
}

/**
 * Opens the console and calls `act` with the page and what is noted: `bodies` of answers, `transferred` bytes of the page's own files.
 * `refusals`: statuses of answers that the browser may complain about.
 */
export async function withBrowser(act, { refusals = [], scheme = 'light', width = 1280 } = {}) {
  const browser = await chromium.launch({ executablePath: stage.chromium, args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'] });
  try {
    const context = await browser.newContext({ viewport: { width, height: 900 }, colorScheme: scheme, reducedMotion: 'reduce' });
    await context.addInitScript({ path: require.resolve('axe-core/axe.min.js') });
    await context.addInitScript(() => {
      window.noted = { violations: [], shifts: [] };
      document.addEventListener('securitypolicyviolation', (event) => window.noted.violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sample}`));
      new PerformanceObserver((list) => list.getEntries().forEach(({ value, hadRecentInput, startTime }) => hadRecentInput || window.noted.shifts.push({ value, startTime }))).observe({ type: 'layout-shift', buffered: true });
    });
    const page = await context.newPage();
    page.setDefaultTimeout(PATIENCE_MS);
    const noted = { complaints: [], bodies: [], transferred: 0 };
    page.on('pageerror', (error) => noted.complaints.push(error.stack));
    page.on('console', (message) => {
      const refused = /Failed to load resource: the server responded with a status of (\d+)/.exec(message.text());
      const offline = message.text().includes('ERR_INTERNET_DISCONNECTED');
      if (['error', 'warning'].includes(message.type()) && !offline && !(refused && refusals.includes(Number(refused[1])))) noted.complaints.push(`${message.text()} ${message.location().url}`);
    });
    page.on('response', (answer) => noted.bodies.push({ url: answer.url(), status: answer.status(), body: answer.text().catch(() => '') }));
    const devtools = await context.newCDPSession(page);
    await devtools.send('Network.enable');
    const own = new Set();
    devtools.on('Network.requestWillBeSent', ({ requestId, request }) => new URL(request.url).pathname.match(/^\/(console\/.*)?$/) && own.add(requestId));
    devtools.on('Network.loadingFinished', ({ requestId, encodedDataLength }) => own.has(requestId) && (noted.transferred += encodedDataLength));
    await page.goto(stage.console);
    await act(page, noted, context);
    assert.deepEqual(await page.evaluate(() => window.noted.violations), [], 'the policy for content is kept');
    assert.deepEqual(noted.complaints, [], 'the browser complains about nothing');
  } finally {
    await browser.close();
  }
}

export async function signIn(page, name, password = stage.secrets[name]) {
  await page.getByLabel('Name', { exact: true }).fill(name);
  await page.getByLabel('Password', { exact: true }).fill(password);
  await page.getByRole('button', { name: 'Sign in' }).click();
}

/** Opens a view by its link, and waits until it is there. */
export async function go(page, view) {
  const title = view[0].toUpperCase() + view.slice(1);
  await page.getByRole('navigation').getByRole('link', { name: title }).click();
  await page.getByRole('heading', { level: 1, name: title }).waitFor();
}

/** Tells what axe finds wrong. */
export async function accessible(page, what) {
  const { violations } = await page.evaluate(() => window.axe.run());
  const found = violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html, failureSummary }) => `${html} ${failureSummary}`).join('\n')}`);
  assert.deepEqual(found, [], `${what} is accessible`);
}

/** What stands in a tile. */
export const tile = (page, name) => page.locator('.tile', { has: page.getByText(name, { exact: true }) }).locator('.value');

/** The cells of a table's rows, as texts. */
export const rows = (page, label) => page.getByRole('table', { name: label, exact: true }).locator('tbody tr').evaluateAll((lines) => lines.map((line) => [...line.cells].map((cell) => cell.textContent.trim())));

/** Waits until something is true of the page; tells what it was last. */
export async function until(look, fits, what) {
  const end = Date.now() + PATIENCE_MS;
  for (;;) {
    const seen = await look();
    if (fits(seen)) return seen;
    assert.ok(Date.now() < end, `${what}: ${JSON.stringify(seen)}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}
