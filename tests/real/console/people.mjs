// Who may not see everything, who has no mouse, who looks away, and who loses the connection.

import assert from 'node:assert/strict';
import { VIEWS, accessible, go, rows, signIn, stage, until, withBrowser } from './browser.mjs';

/** What ann, who may pull one repository, must never get to read. */
const FOREIGN = ['team/service-', 'team/disputed', 'team/far', 'library/base', 'library/tools', '"principal":', '"took_ms"'];

async function wrongRole(page, noted) {
  await page.getByRole('heading', { name: 'Sign in' }).waitFor();
  await signIn(page, 'root', 'a wrong one');
  await page.getByRole('alert').getByText('These credentials are not accepted.').waitFor();
  assert.equal(await page.locator('.tile, table').count(), 0, 'nothing is shown');
  const early = await Promise.all(noted.bodies.map(async ({ url, body }) => ({ path: new URL(url).pathname, text: await body })));
  assert.deepEqual([...new Set(early.map(({ path }) => path).filter((path) => !path.startsWith('/console/')))].sort(), ['/', '/outport/v1/status'], 'nothing else is asked');

  await signIn(page, 'ann');
  await page.getByRole('heading', { level: 1, name: 'Overview' }).waitFor();
  for (const view of VIEWS) {
    await go(page, view);
    await page.waitForTimeout(400);
  }
  await go(page, 'regions');
  assert.deepEqual(await until(() => rows(page, 'Conflicts'), (all) => all.length === 1, 'conflicts'), [['Regions agree about every tag.']]);
  for (const view of ['noisy', 'audit', 'log']) {
    await go(page, view);
    await page.getByText('You need the role Contributor or Owner.').waitFor();
    assert.equal(await page.locator('main').locator('form:visible, table:visible, li:visible, button:visible').count(), 0, `${view} shows nothing else`);
    await accessible(page, `${view}, refused`);
  }
  await go(page, 'repositories');
  assert.deepEqual(await until(() => rows(page, 'Repositories'), (all) => all.length > 0, 'repositories'), [['team/app']]);
  await page.getByRole('link', { name: 'team/app' }).click();
  await page.getByRole('button', { name: 'Next page of tags' }).click();
  await page.getByRole('button', { name: 'Lock team/app:v1 against deletion' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Lock' }).click();
  await page.getByText('Nothing was changed. You need the role Contributor or Owner on team/app.').waitFor();
  assert.equal(await page.getByRole('button', { name: 'Lock team/app:v1 against deletion' }).count(), 1, 'and it is not locked');
  // Another's repository, by its address.
  await page.evaluate(() => { location.hash = '#/repositories/team/far'; });
  await page.getByText(/repository name not known to registry/).first().waitFor();

  const told = await Promise.all(noted.bodies.map(async ({ url, status, body }) => ({ url, status, text: await body })));
  assert.ok(told.some(({ url, status }) => url.includes('/outport/v1/audit') && status === 403));
  assert.ok(told.some(({ url, text }) => url.includes('/acr/v1/_catalog') && text.includes('team/app')), 'bodies were read');
  for (const { url, text } of told.filter(({ url: from }) => /\/(outport|acr)\/v1\//.test(from))) {
    for (const words of FOREIGN) assert.ok(!text.includes(words), `${url} tells ${words}`);
  }

  await page.getByRole('button', { name: 'Sign out' }).click();
  await page.getByRole('heading', { name: 'Sign in' }).waitFor();
  assert.equal(await page.evaluate(() => JSON.stringify({ ...sessionStorage, ...localStorage })), '{}');
  assert.equal(await page.locator('.tile, table').count(), 0);
  await page.reload();
  await page.getByRole('heading', { name: 'Sign in' }).waitFor();
}

const focused = (page) => page.evaluate(() => {
  const { textContent, outerHTML } = document.activeElement;
  const { outlineStyle, outlineWidth } = getComputedStyle(document.activeElement);
  return { text: textContent.trim(), label: document.activeElement.getAttribute('aria-label'), ring: outlineStyle !== 'none' && outlineWidth !== '0px', html: outerHTML.slice(0, 80) };
});

async function keyboard(page) {
  await page.getByRole('heading', { name: 'Sign in' }).waitFor();
  // The first field has the focus.
  await page.keyboard.type('root');
  await page.keyboard.press('Tab');
  await page.keyboard.type(stage.secrets.root);
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { level: 1, name: 'Overview' }).waitFor();
  // From the top of the page.
  await page.reload();
  await page.getByRole('heading', { level: 1, name: 'Overview' }).waitFor();
  await page.keyboard.press('Tab');
  assert.equal((await focused(page)).text, 'Skip to the content');
  for (const view of VIEWS) {
    await page.keyboard.press('Tab');
    const { text, ring, html } = await focused(page);
    assert.equal(text.toLowerCase(), view, html);
    assert.ok(ring, `${view} shows that it has the focus`);
    await page.keyboard.press('Enter');
    await page.getByRole('heading', { level: 1, name: text }).waitFor();
    assert.equal(await page.locator('nav [aria-current=page]').textContent(), text);
    assert.equal((await focused(page)).text, text, 'the focus stays');
  }
  await page.keyboard.press('Tab');
  assert.equal((await focused(page)).text, 'Sign out');

  // To a lock, and back out of the question.
  await page.evaluate(() => { location.hash = '#/repositories/team/app'; });
  await page.getByRole('button', { name: 'Lock team/app:r00 against deletion' }).waitFor();
  await page.getByRole('link', { name: 'Overview' }).focus();
  await page.keyboard.press('Shift+Tab');
  await page.keyboard.press('Enter');
  let label = null;
  for (let steps = 0; steps < 20 && label !== 'Lock team/app:r00 against deletion'; steps += 1) {
    await page.keyboard.press('Tab');
    ({ label } = await focused(page));
  }
  assert.equal(label, 'Lock team/app:r00 against deletion', 'it is reached');
  await page.keyboard.press('Enter');
  await page.getByRole('dialog').waitFor();
  await page.keyboard.press('Escape');
  await page.getByText('Nothing was changed.').waitFor();
  assert.equal((await focused(page)).label, 'Lock team/app:r00 against deletion');
}

async function away(page, noted, context) {
  await page.getByRole('heading', { name: 'Sign in' }).waitFor();
  await signIn(page, 'root');
  await page.getByRole('heading', { level: 1, name: 'Overview' }).waitFor();
  await page.locator('#live', { hasText: 'live' }).waitFor();
  const hide = (hidden) => page.evaluate((value) => {
    Object.defineProperty(document, 'hidden', { configurable: true, get: () => value });
    document.dispatchEvent(new Event('visibilitychange'));
  }, hidden);
  await hide(true);
  await page.locator('#live', { hasText: 'paused' }).waitFor();
  await page.waitForTimeout(500);
  const asked = noted.bodies.length;
  await page.waitForTimeout(4500);
  assert.equal(noted.bodies.length, asked, 'nobody looks, nothing is asked');
  await hide(false);
  await until(() => noted.bodies.length, (count) => count > asked, 'it goes on at once');

  await page.locator('#live', { hasText: 'live' }).waitFor();
  await context.setOffline(true);
  await page.locator('#verdict', { hasText: /^No connection to this edge since \d\d:\d\d:\d\d\. What is shown is from then\.$/ }).waitFor();
  await accessible(page, 'without a connection');
  await context.setOffline(false);
  await page.locator('#verdict', { hasText: /not well/ }).waitFor();
  await page.locator('#live', { hasText: 'live' }).waitFor();
  // A reload needs no new credentials; a new tab has none.
  await page.reload();
  await page.getByRole('heading', { level: 1, name: 'Overview' }).waitFor();
  const other = await context.newPage();
  await other.goto(stage.console);
  await other.getByRole('heading', { name: 'Sign in' }).waitFor();
}

for (const [act, refusals] of [[wrongRole, [401, 403, 404]], [keyboard, [401]], [away, [401]]]) {
  const began = Date.now();
  await withBrowser(act, { refusals });
  console.log(`${act.name}: ${Date.now() - began} ms`);
}
