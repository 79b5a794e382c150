// The page around the views: who looks, at what, and whether all is well.

import { Refused, forget, signInWith, signedIn, whenUnauthorized } from './api.js';
import { Live } from './live.js';
import { told } from './pages.js';
import { clock, element, field, section, write } from './page.js';
import { problems } from './verdict.js';
import * as audit from './audit.js';
import * as log from './log.js';
import * as noisy from './noisy.js';
import * as origins from './origins.js';
import * as overview from './overview.js';
import * as regions from './regions.js';
import * as repositories from './repositories.js';
import * as system from './system.js';

const VIEWS = { overview, regions, origins, repositories, noisy, audit, log, system };
const at = (id) => document.getElementById(id);
const [main, nav, verdict, sign] = ['main', 'nav', 'verdict', 'sign'].map(at);

const live = new Live(changed);
let view = null;
/** Whether somebody is asked for credentials. */
let asks = false;
/** What they are told if theirs are refused. */
let refusedBecause = null;
/** Whether somebody has gone from one view to another. */
let moved = false;

nav.append(element('ul', {}, Object.entries(VIEWS).map(([name, { title }]) => element('li', {}, element('a', { href: `#/${name}` }, title)))));

/** `#/repositories/team/app` and `#/audit?principal=ann`. */
function address() {
  const [path, query = ''] = location.hash.replace(/^#\/?/, '').split('?');
  const [name, ...rest] = decodeURIComponent(path).split('/');
  return { name: Object.hasOwn(VIEWS, name) ? name : 'overview', rest: rest.join('/'), query: new URLSearchParams(query) };
}

function show() {
  const { name, rest, query } = address();
  view?.close?.();
  const heading = element('h1', {}, VIEWS[name].title);
  main.replaceChildren(heading);
  document.title = `${VIEWS[name].title} · ${live.status.region} · outport`;
  for (const link of nav.querySelectorAll('a')) {
    if (link.hash === `#/${name}`) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  view = VIEWS[name].open(main, live, rest, query);
  view.update();
  window.scrollTo(0, 0);
  // Whoever followed a link of the old view stands nowhere now.
  if (moved && document.activeElement === document.body) {
    heading.tabIndex = -1;
    heading.focus({ preventScroll: true });
  }
}

window.addEventListener('hashchange', () => {
  moved = true;
  if (live.status && !asks) show();
});

/** Something is known that was not before, or nothing is any more. */
function changed() {
  if (asks) return;
  tellLive();
  tellVerdict();
  if (!live.status) return;
  write(at('place'), live.status.region);
  write(at('who'), signedIn() ?? 'nobody');
  write(sign, signedIn() ? 'Sign out' : 'Sign in');
  sign.hidden = nav.hidden = false;
  if (!view) show();
  else if (live.silentSince === null) view.update();
}

function tellLive() {
  const [kind, text] = live.silentSince !== null ? ['bad', 'no connection'] : live.paused ? ['plain', 'paused'] : ['ok', 'live'];
  at('live').className = `live ${kind}`;
  write(at('live'), text);
}

function tellVerdict() {
  if (live.silentSince !== null) {
    const refused = live.trouble instanceof Refused;
    return say('bad', refused ? told(live.trouble) : `No connection to this edge since ${clock(live.silentSince)}. ${live.status ? 'What is shown is from then.' : 'It is asked again.'}`);
  }
  if (!live.status) return say('plain', 'Asking this edge …');
  const found = problems(live);
  const first = found[0]?.text;
  if (!first) return say('ok', 'All is well');
  return say(found.some(({ bad }) => bad) ? 'bad' : 'warn', found.length === 1 ? first : `${found.length} things are not well. ${first}, and ${found.length - 1} more`);
}

function say(kind, text) {
  verdict.className = `verdict ${kind}`;
  write(verdict, text);
}

/** In place of everything else: nothing is shown to whoever may not see it. */
function askForCredentials(why) {
  if (asks) return;
  asks = true;
  view?.close?.();
  view = null;
  live.reset();
  nav.hidden = sign.hidden = true;
  for (const id of ['place', 'who', 'live']) write(at(id), '');
  verdict.className = 'verdict';
  write(verdict, '');
  document.title = 'Sign in · outport';
  const name = element('input', { name: 'name', autocomplete: 'username', autocapitalize: 'none', spellcheck: 'false' });
  const password = element('input', { name: 'password', type: 'password', autocomplete: 'current-password' });
  const token = element('input', { name: 'token', type: 'password', autocomplete: 'off' });
  const said = element('p', { class: 'said', role: 'alert' }, why ?? '');
  const form = element('form', { class: 'sign-in' }, field('Name', name), field('Password', password),
    element('details', {}, element('summary', {}, 'With an access token'), field('Token', token)),
    element('button', { class: 'first' }, 'Sign in'), said);
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    if (!token.value && !name.value) return void name.focus();
    signInWith(name.value.trim(), password.value, token.value.trim());
    asks = false;
    main.replaceChildren();
    begin('These credentials are not accepted.');
  });
  main.replaceChildren(element('h1', {}, 'Sign in'), section('A principal of this registry, or its admin', form));
  name.focus();
}

async function begin(whyNot) {
  refusedBecause = signedIn() ? whyNot ?? 'Your credentials are not accepted any more.' : null;
  tellVerdict();
  await live.start();
  refusedBecause = 'Your credentials are not accepted any more.';
}

whenUnauthorized(() => {
  const why = signedIn() ? refusedBecause : null;
  forget();
  askForCredentials(why);
});

sign.addEventListener('click', () => {
  forget();
  askForCredentials();
});

at('skip').addEventListener('click', (event) => {
  event.preventDefault();
  main.focus();
});

begin();
