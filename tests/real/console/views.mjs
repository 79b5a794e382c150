// An owner looks at each view: what it shows is what the edge says.

import assert from 'node:assert/strict';
import { join } from 'node:path';
import { VIEWS, accessible, ask, go, rows, signIn, stage, tile, until, withBrowser } from './browser.mjs';

const FILES_BYTES = 300_000;
/** Layout that moves by itself, at most: Chromium's measure, whose "good" ends at 0.1. */
const SHIFT = 0.005;
const DIGEST = /sha256:[0-9a-f]{64}/;

const number = (text) => Number(text.replace(/[^0-9.]/g, ''));
const metric = (text, name) => text.split('\n').filter((line) => line.startsWith(name)).reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0);
const titles = (page, label, column) => page.getByRole('table', { name: label, exact: true }).locator(`tbody td:nth-child(${column}) code`).evaluateAll((codes) => codes.map(({ title }) => title));

async function overview(page) {
  const verdict = page.locator('#verdict');
  const found = await page.getByRole('list', { name: 'What is not well' }).getByRole('listitem').allTextContents();
  const { json: status } = await ask('/outport/v1/status');
  assert.match(found[0], /^ap cannot be seen since \d\d:\d\d:\d\d$/);
  assert.ok(found.includes('gone.test is not asked for now: it failed too often'), found);
  assert.ok(found.includes(`${status.ledger.conflicts} ${status.ledger.conflicts === 1 ? 'tag is' : 'tags are'} in conflict between regions`), found);
  assert.equal(await verdict.textContent(), `${found.length} things are not well. ${found[0]}, and ${found.length - 1} more`);
  assert.deepEqual([await verdict.getAttribute('role'), await verdict.getAttribute('class')], ['status', 'verdict bad']);

  const value = (name) => tile(page, name).textContent();
  await until(() => value('Requests'), (text) => number(text) > 10, 'requests are counted');
  assert.match(await until(() => value('Sent'), (text) => number(text) > 0, 'bytes are counted'), /iB\/s$/);
  assert.ok(number(await until(() => value('Hit ratio'), (text) => text.endsWith('%'), 'there is a hit ratio')) > 90);
  const [half, most] = await until(async () => [await value('First byte, p50'), await value('First byte, p99')], (all) => all.every((text) => /^[\d.]+ (µs|ms|s)$/.test(text)), 'quantiles');
  const seconds = (text) => number(text) * { µs: 1e-6, ms: 1e-3, s: 1 }[text.split(' ')[1]];
  assert.ok(seconds(half) <= seconds(most), `${half}, ${most}`);
  assert.ok(number(await value('Saved')) > 0);
  assert.match(await value('Farthest lag'), /(min|s)$/);

  const pictures = page.getByRole('img');
  assert.match(await pictures.nth(0).getAttribute('aria-label'), /memory [\d.]+ [KM]iB\/s/);
  assert.match(await pictures.nth(2).getAttribute('aria-label'), /us 0 s, ap (\d+ min|[\d.]+ s)/);
  // Lines are drawn, in as many colours as there are.
  const colours = () => page.locator('.plot canvas').evaluateAll((all) => all.map((canvas) => {
    // Of a copy: the browser complains when its own picture is read again and again.
    const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d', { willReadFrequently: true });
    copy.drawImage(canvas, 0, 0);
    const { data } = copy.getImageData(0, 0, canvas.width, canvas.height);
    const seen = new Set();
    for (let at = 0; at < data.length; at += 4) if (data[at + 3] === 255) seen.add(`${data[at]},${data[at + 1]},${data[at + 2]}`);
    return seen.size;
  }));
  await until(colours, (all) => all.length === 3 && all.every((each) => each > 3), 'lines are drawn');
}

async function regions(page) {
  const { json: status } = await ask('/outport/v1/status');
  const seen = await until(() => rows(page, 'Other regions'), (all) => all.length === 2, 'other regions');
  const peers = Object.fromEntries(status.peers.map((peer) => [peer.region, peer]));
  const [us, ap] = ['us', 'ap'].map((name) => seen.find(([region]) => region === name));
  assert.deepEqual([us[1], us[2], us[3]], ['now', 'level', '0']);
  assert.equal(us[4], `${peers.us.folded} of ${peers.us.tail}`);
  assert.match(ap[1], /^blind since \d\d:\d\d:\d\d$/);
  assert.match(ap[2], /^(\d+ min.*|[\d.]+ s)$/);
  assert.deepEqual([ap[6], ap[7]], [peers.ap.incarnation, peers.ap.blind]);
  assert.equal(await tile(page, 'Cannot be seen').textContent(), '1');

  const { json: { conflicts } } = await ask('/outport/v1/conflicts');
  assert.ok(conflicts.length > 0);
  assert.deepEqual((await until(() => rows(page, 'Conflicts'), (all) => all[0]?.length > 1, 'conflicts')).map(([tag]) => tag), conflicts.map(({ repository, tag }) => `${repository}:${tag}`));
  assert.deepEqual(await titles(page, 'Conflicts', 2), conflicts.map(({ winner }) => winner));
  assert.deepEqual(await titles(page, 'Conflicts', 3), conflicts.flatMap(({ losers }) => losers));
  assert.deepEqual((await rows(page, 'Members')).map(([region, standing]) => [region, standing]), status.ledger.members.map(({ region, standing }) => [region, standing]));
}

async function origins(page) {
  const { text } = await ask('/metrics');
  const { json: report } = await ask('/outport/v1/offload');
  const found = Object.fromEntries((await rows(page, 'Origins')).map((row) => [row[0], row]));
  const asked = metric(text, 'outport_upstream_requests_total{outcome="2xx",upstream="origin.test"}');
  assert.ok(asked > 0);
  const [good, gone] = [found['origin.test'], found['gone.test']];
  assert.deepEqual([good[1], gone[1]], ['closed', 'open']);
  assert.ok(number(good[3]) >= asked, `${good} ${asked}`);
  assert.match(good[5], /^[\d.]+ KiB$/);
  assert.equal(good[8], '0');
  assert.match(gone[8], /^\d+ connect \d+$/);
  assert.equal(await tile(page, 'Breakers open').textContent(), '1');
  const { requests, saved_requests: saved } = report.upstreams.find(({ upstream }) => upstream === 'origin.test').since_start;
  assert.ok(requests > saved && saved > 0);
  await until(() => rows(page, 'Origins'), (all) => number(all.find(([name]) => name === 'origin.test')[4]) >= saved, 'what was saved');
}

async function repositories(page) {
  const { json: { repositories: names } } = await ask('/acr/v1/_catalog?n=1000');
  assert.ok(names.length > 25);
  const listed = () => rows(page, 'Repositories').then((all) => all.map(([name]) => name));
  assert.deepEqual(await until(listed, (all) => all.length === 25, 'a page'), names.slice(0, 25));
  await page.getByRole('button', { name: 'Next page of repositories' }).click();
  assert.deepEqual(await until(listed, (all) => all.length < 25, 'the next page'), names.slice(25));
  await page.getByRole('button', { name: 'Page of repositories before' }).click();
  await until(listed, (all) => all[0] === names[0], 'the first page');
  await page.getByRole('searchbox', { name: 'Filter' }).fill('vice-2');
  assert.deepEqual(await until(listed, (all) => all.length < 25, 'what fits'), names.filter((name) => name.includes('vice-2')));
  await page.getByRole('searchbox', { name: 'Filter' }).fill('am/app');
  await until(listed, (all) => all.length === 1, 'one');
  await page.getByRole('link', { name: 'team/app' }).click();

  const tags = () => rows(page, 'Tags of team/app');
  const { json: { tags: first } } = await ask('/acr/v1/team/app/_tags?n=25');
  const { json: { manifests } } = await ask('/acr/v1/team/app/_manifests');
  const held = await until(tags, (all) => all.length === 25 && all.every((row) => row[4].includes('eu: all')), 'where tags are held');
  assert.deepEqual(held.map(([tag]) => tag), first.map(({ name }) => name));
  assert.deepEqual(await titles(page, 'Tags of team/app', 2), first.map(({ digest }) => digest));
  assert.equal(held[0][2], `${(manifests[0].imageSize / 1024).toFixed(1)} KiB`);
  const { json: receipt } = await ask(`/outport/v1/replication/team/app/${first[0].name}`);
  assert.equal(held[0][4], receipt.regions.map(({ region, known, complete }) => `${region}: ${known === null ? 'cannot be told' : complete ? 'all' : 'by name'}`).join(' '));
  await page.getByRole('button', { name: 'Next page of tags' }).click();
  await until(tags, (all) => all.some(([tag]) => tag === 'v1'), 'the last tags');
  await locks(page);
}

async function locks(page) {
  const attributes = async () => (await ask('/acr/v1/team/app/_tags/v1')).json.tag.changeableAttributes;
  const said = page.locator('.said');
  await page.getByRole('button', { name: 'Lock team/app:v1 against deletion' }).click();
  const dialog = page.getByRole('dialog', { name: 'Lock team/app:v1 against deletion?' });
  await accessible(page, 'the question');
  await dialog.getByRole('button', { name: 'Leave it' }).click();
  await until(() => said.textContent(), (text) => text === 'Nothing was changed.', 'what came of it');
  assert.equal((await attributes()).deleteEnabled, true);

  for (const [word, again, attribute, enabled, tells] of [
    ['Lock', 'Unlock team/app:v1 for deletion', 'deleteEnabled', false, /^Done: team\/app:v1 can no longer be deleted/],
    ['Unlock', 'Lock team/app:v1 against deletion', 'deleteEnabled', true, /^Done: team\/app:v1 can be deleted again/],
    ['Lock', 'Unlock team/app:v1 for changes', 'writeEnabled', false, /^Done: team\/app:v1 can no longer be changed/],
    ['Unlock', 'Lock team/app:v1 against changes', 'writeEnabled', true, /^Done: team\/app:v1 can be changed again/],
  ]) {
    const what = attribute === 'deleteEnabled' ? 'deletion' : 'changes';
    await page.getByRole('button', { name: `${word} team/app:v1 ${enabled ? 'for' : 'against'} ${what}` }).click();
    await page.getByRole('dialog').getByRole('button', { name: word }).click();
    await until(() => said.textContent(), (text) => tells.test(text), word);
    // Whoever pressed it stands at the button that takes it back.
    await until(() => page.evaluate(() => document.activeElement.getAttribute('aria-label')), (label) => label === again, 'the focus');
    assert.equal((await attributes())[attribute], enabled, word);
    if (attribute === 'deleteEnabled' && !enabled) assert.ok((await ask('/acr/v1/team/app/_tags/v1', { method: 'DELETE' })).status >= 400, 'a lock holds');
  }
}

async function noisy(page) {
  const { json } = await ask('/outport/v1/top?by=principal&measure=requests&window=minute&n=10');
  const found = await until(() => rows(page, 'Principals'), (all) => all[0]?.length > 1, 'principals');
  assert.equal(found[0][0], 'ci', 'who pulls all the time');
  assert.equal(found[0][0], json.tables[0].names[0].name);
  assert.ok(number(found[0][1]) > 100, `${found}`);
  assert.ok((await rows(page, 'Repositories')).some(([name]) => name.includes('team/app')));
  await page.getByRole('combobox', { name: 'By' }).selectOption('bytes');
  await until(() => rows(page, 'Principals'), (all) => /iB/.test(all[0][1]), 'bytes');
}

async function audit(page) {
  await page.getByText(/^(All regions were looked through|Not looked through to the end)/).waitFor();
  await page.getByLabel('Principal').fill('ci');
  await page.getByLabel('Repository').fill('team/far');
  await page.getByLabel('Action').fill('push');
  await page.getByLabel('From', { exact: true }).fill('1h');
  await page.getByRole('button', { name: 'Search' }).click();
  const { json } = await ask('/outport/v1/audit?principal=ci&repository=team/far&action=push&since=1h');
  assert.ok(json.entries.length > 2);
  const list = () => rows(page, 'Entries');
  const found = await until(list, (all) => all.length === json.entries.length && all.every((row) => row[3] === 'push'), 'what was pushed to another region');
  for (const row of found) assert.deepEqual([row[1], row[2], row[4].split(/[: ]/)[0]], ['us', 'ci', 'team/far']);
  assert.match(await page.locator('.note').first().textContent(), /^Not looked through to the end: ap \(/);
  assert.equal(new URL(page.url()).hash, '#/audit?principal=ci&repository=team%2Ffar&action=push&since=1h');

  // Page by page, each entry once, the newest first.
  await page.getByLabel('Repository').fill('team/**');
  await page.getByRole('button', { name: 'Search' }).click();
  const pushed = (await ask('/outport/v1/audit?principal=ci&repository=team/**&action=push&since=1h&limit=1000')).json.entries;
  assert.ok(pushed.length > 100);
  const times = () => page.getByRole('table', { name: 'Entries' }).locator('tbody time').evaluateAll((all) => all.map(({ dateTime }) => dateTime));
  const expected = pushed.map(({ time }) => time);
  for (let at = 0, pages = 0; at < 100; pages += 1) {
    const shown = await until(times, (all) => all.length > 40 && all[0] === expected[at], `page ${pages}`);
    assert.deepEqual(shown, expected.slice(at, at + shown.length));
    at += shown.length;
    if (at < 100) await page.getByRole('button', { name: 'Next page of entries' }).click();
  }
}

async function log(page) {
  const lines = page.getByRole('list', { name: /^Lines of the log/ }).getByRole('listitem');
  await page.getByLabel('Level').selectOption('TRACE');
  // Each line of it, by its words: what goes on meanwhile comes behind them.
  const { json: quiet } = await ask('/outport/v1/logs?lines=200&requests=no');
  assert.ok(quiet.lines.length > 0, 'an edge tells how it starts');
  const shown = await until(() => lines.locator('.message').allTextContents(), (all) => all.length >= quiet.lines.length, 'lines');
  assert.deepEqual(shown.slice(0, quiet.lines.length), quiet.lines.map(({ message }) => message));
  assert.ok(!(await lines.allTextContents()).some((text) => text.includes('outport::access')), 'requests only where somebody wants them');

  // Live, until somebody holds it.
  await page.getByLabel('Lines of requests').check();
  const before = await until(() => lines.count(), (count) => count > 50, 'lines of requests');
  await until(() => lines.count(), (count) => count > before, 'newer lines');
  await page.getByRole('button', { name: 'Pause' }).click();
  const held = await lines.last().textContent();
  await page.waitForTimeout(2500);
  assert.equal(await lines.last().textContent(), held, 'it is paused');
  await page.getByRole('button', { name: 'Go on' }).click();
  await until(() => lines.last().textContent(), (text) => text !== held, 'what came meanwhile');
  await page.getByLabel('Contains').fill('library/tools');
  for (const text of await lines.allTextContents()) assert.match(text, /library\/tools/);
  await page.getByLabel('Contains').fill('');
  await page.getByLabel('Level').selectOption('WARN');
  const levels = new Set(await lines.locator('.chip').allTextContents());
  assert.ok([...levels].every((level) => ['WARN', 'ERROR'].includes(level)), `${[...levels]}`);

  // What the edges of other regions have kept is found here.
  const form = page.getByRole('search', { name: 'Search of the logs of all regions' });
  const asked = { Principal: 'ci', Repository: 'team/far', 'Kind of request': 'push', From: '1h' };
  for (const [label, value] of Object.entries(asked)) await form.getByLabel(label, { exact: true }).fill(value);
  await form.getByLabel('From', { exact: true }).press('Enter');
  const { json: kept } = await ask('/outport/v1/logs?limit=50&principal=ci&repository=team/far&route=push&since=1h');
  assert.ok(kept.entries.length > 0);
  const found = await until(() => rows(page, 'What was found'), (all) => all.length === kept.entries.length && all[0].length === 5, 'lines of another region');
  for (const row of found) assert.deepEqual([row[1], row[2], row[4]], ['us', 'INFO', 'outport::access']);
  assert.equal(new URL(page.url()).hash, '#/log?principal=ci&repository=team%2Ffar&route=push&since=1h');
}

async function system(page) {
  const { text } = await ask('/metrics');
  const near = (shown, told) => assert.ok(Math.abs(shown - told) <= 0.5 * told + 8, `${shown}, ${told}`);
  near(number(await tile(page, 'Descriptors').textContent()), metric(text, 'process_open_fds'));
  near(number(await tile(page, 'Memory').textContent()), metric(text, 'process_resident_memory_bytes') / 2 ** 20);
  await until(() => tile(page, 'Processor').textContent(), (value) => /^[\d.]+ %$/.test(value), 'the processor');
  const tiers = Object.fromEntries((await rows(page, 'Cache')).map(([tier, ...rest]) => [tier, rest]));
  assert.equal(number(tiers.disk[3]), metric(text, 'outport_cache_entries{tier="disk"}'));
  assert.equal(number(tiers.disk[1]), 20, 'GiB, the default');
  const verbs = Object.fromEntries((await rows(page, 'Bucket')).map(([verb, ...rest]) => [verb, rest]));
  assert.ok(number(verbs.create[0]) >= metric(text, 'outport_bucket_requests_total{outcome="done",verb="create"}'));
  const uploads = Object.fromEntries(await rows(page, 'Uploads and transfers'));
  assert.equal(number(uploads['Uploads complete']), metric(text, 'outport_uploads_total{outcome="complete"}'));
  assert.match((await rows(page, 'Bytes since the start'))[0][1], /iB$/);
  const storage = Object.fromEntries(await rows(page, 'Storage'));
  assert.equal(storage['Disk takes writes'], 'yes');
  const size = metric(text, 'outport_disk_bytes');
  assert.ok(size > 0);
  assert.ok(storage['Free on the disk'].includes(` of ${Math.round(size / 2 ** 30)} GiB, `), storage['Free on the disk']);
}

const SEEN = { overview, regions, origins, repositories, noisy, audit, log, system };

async function picture(page, name) {
  if (stage.pictures) await page.screenshot({ path: join(stage.pictures, `${name}.png`), fullPage: true });
}

await withBrowser(async (page, noted) => {
  await page.getByRole('heading', { name: 'Sign in' }).waitFor();
  await accessible(page, 'the form to sign in');
  await signIn(page, 'root');
  for (const view of VIEWS) {
    const began = Date.now();
    if (view === 'overview') await page.getByRole('heading', { level: 1, name: 'Overview' }).waitFor();
    else await go(page, view);
    await SEEN[view](page);
    await accessible(page, view);
    console.log(`${view}: ${Date.now() - began} ms`);
  }
  assert.ok(noted.transferred > 50_000 && noted.transferred < FILES_BYTES, `${noted.transferred} bytes`);
  console.log(`files of the page: ${noted.transferred} bytes`);

  // What stands still while figures change.
  await go(page, 'overview');
  await page.waitForTimeout(1000);
  const since = await page.evaluate(() => performance.now());
  await page.waitForTimeout(5000);
  const moved = await page.evaluate((from) => window.noted.shifts.filter(({ startTime }) => startTime > from).reduce((sum, { value }) => sum + value, 0), since);
  assert.ok(moved < SHIFT, `the layout moved by ${moved}`);
  for (const view of ['overview', 'regions']) {
    await go(page, view);
    await page.waitForTimeout(stage.pictures ? 2500 : 200);
    await picture(page, `${view}-light`);
  }
  await page.emulateMedia({ colorScheme: 'dark' });
  for (const view of VIEWS) {
    await go(page, view);
    await page.waitForTimeout(300);
    await accessible(page, `${view} in the dark`);
    if (view === 'overview' || view === 'regions') await picture(page, `${view}-dark`);
  }
  await page.emulateMedia({ colorScheme: 'light' });
  await page.setViewportSize({ width: 400, height: 800 });
  for (const view of VIEWS) {
    await go(page, view);
    await page.waitForTimeout(300);
    const width = await page.evaluate(() => document.documentElement.scrollWidth);
    assert.ok(width <= 400, `${view} is ${width} px wide`);
    if (view === 'overview' || view === 'regions') await picture(page, `${view}-400px`);
  }
  await accessible(page, 'what is 400 px wide');
  const whole = await Promise.all(noted.bodies.map(async ({ url, status, body }) => ({ url, status, text: await body })));
  assert.ok(whole.some(({ url }) => url.includes('/outport/v1/status')));
  assert.ok(whole.every(({ url, text }) => !url.includes('/acr/v1/team/app/_tags?') || DIGEST.test(text)));
}, { refusals: [401] });
