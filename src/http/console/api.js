// Questions to the edge, with the credentials of whoever has signed in. They live in this tab and nowhere else.

const PLACE = 'outport.credentials';
const PATIENCE_MS = 15_000;

/** An answer that is not the one that was asked for. */
export class Refused extends Error {
  constructor(status, message, retryAfter) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

/** No answer. */
export class Silent extends Error {}

let credentials = recall();
let onUnauthorized = () => {};

function recall() {
  try {
    return JSON.parse(sessionStorage.getItem(PLACE));
  } catch {
    return null;
  }
}

function remember(value) {
  credentials = value;
  // Where a browser has no storage for this page, a reload asks again.
  try {
    if (value) sessionStorage.setItem(PLACE, JSON.stringify(value));
    else sessionStorage.removeItem(PLACE);
  } catch {}
}

/** Who has signed in; nothing for nobody. */
export const signedIn = () => credentials?.name ?? null;
export const forget = () => remember(null);

export function signInWith(name, password, token) {
  // Passwords may have any characters: Basic sends them as UTF-8 (RFC 7617, section 2.1).
  const base64 = (text) => btoa(String.fromCharCode(...new TextEncoder().encode(text)));
  remember(token ? { name: 'token', header: `Bearer ${token}` } : { name, header: `Basic ${base64(`${name}:${password}`)}` });
}

/** Calls this whenever an answer says that other credentials are needed. */
export function whenUnauthorized(call) {
  onUnauthorized = call;
}

async function send(path, { method = 'GET', body } = {}) {
  const headers = { 'X-Requested-With': 'console' };
  const used = credentials;
  if (used) headers.Authorization = used.header;
  if (body) headers['Content-Type'] = 'application/json';
  let answer, text;
  try {
    answer = await fetch(path, {
      method, headers, body: body && JSON.stringify(body), credentials: 'omit', cache: 'no-store', redirect: 'error', signal: AbortSignal.timeout(PATIENCE_MS),
    });
    text = await answer.text();
  } catch (error) {
    throw new Silent(error.message);
  }
  if (answer.status === 401 && used === credentials) onUnauthorized();
  return { answer, text };
}

function refusal(answer, text) {
  let message = `${answer.status} ${answer.statusText}`.trim();
  try {
    const [first] = JSON.parse(text).errors;
    message = first.detail && typeof first.detail === 'string' ? `${first.message}: ${first.detail}` : first.message;
  } catch {}
  return new Refused(answer.status, message, Number(answer.headers.get('Retry-After')) || null);
}

/** The JSON of a good answer, and where a list goes on. */
export async function page(path, options) {
  const { answer, text } = await send(path, options);
  if (!answer.ok) throw refusal(answer, text);
  return { json: text ? JSON.parse(text) : null, next: /<([^>]+)>;\s*rel="next"/.exec(answer.headers.get('Link') ?? '')?.[1] ?? null };
}

export const json = async (path, options) => (await page(path, options)).json;

/** Text, or JSON of any status: readiness is told by 503 too. */
export async function raw(path) {
  const { answer, text } = await send(path);
  return { status: answer.status, text };
}
