// A list that is read page by page, and the words for a refusal in its place.

import { Refused, page } from './api.js';
import { element } from './page.js';

/** What somebody reads who got no answer. `role`: what would have been enough. */
export function told(error, role) {
  if (!(error instanceof Refused)) return `No answer: ${error.message}`;
  if (error.status === 401) return 'Sign in first.';
  if (error.status === 403) return role ? `You need the role ${role}.` : 'Your role does not allow it.';
  if (error.status === 429) return `Too many attempts: come again in ${error.retryAfter ?? 'a few'} s.`;
  return `Refused (${error.status}): ${error.message}`;
}

/**
 * Buttons for a list that answers with where it goes on. `first` is the path of its first page, `list(json)` what is on a page, `show(rows)`
 * shows it, and `failed(error)` may take an error over. The page that is shown is asked for again every so often.
 */
export class Pages {
  constructor({ label, first, list, show, failed = () => false, read = page, every = 10_000 }) {
    Object.assign(this, { list, show, failed, read, every, starts: [first], next: null, asked: 0, askedAt: -Infinity, rows: 0 });
    this.before = element('button', { type: 'button', 'aria-label': `Page of ${label} before`, onclick: () => this.turn(-1) }, 'Before');
    this.after = element('button', { type: 'button', 'aria-label': `Next page of ${label}`, onclick: () => this.turn(1) }, 'Next');
    this.words = element('span', { role: 'status' });
    this.node = element('div', { class: 'pages' }, this.before, this.after, this.words);
    this.draw();
  }

  begin(first) {
    this.starts = [first];
    this.next = null;
    return this.load();
  }

  turn(by) {
    if (by > 0 && this.next) this.starts.push(this.next);
    else if (by < 0 && this.starts.length > 1) this.starts.pop();
    else return undefined;
    return this.load();
  }

  /** Called whenever the page is drawn anew. */
  tick() {
    if (performance.now() - this.askedAt > this.every - 200 && !this.loading) this.load();
  }

  async load() {
    const turn = (this.asked += 1);
    this.askedAt = performance.now();
    this.loading = true;
    try {
      const { json, next } = await this.read(this.starts.at(-1));
      if (turn !== this.asked) return;
      this.next = next;
      const rows = this.list(json);
      this.rows = rows.length;
      this.failure = null;
      this.show(rows, json);
    } catch (error) {
      if (turn !== this.asked) return;
      this.next = null;
      this.failure = this.failed(error) ? '' : told(error);
    } finally {
      if (turn === this.asked) this.loading = false;
    }
    this.draw();
  }

  draw() {
    // A button that was just pressed must not lose the focus to nowhere: it is said to be off, and does nothing.
    this.before.setAttribute('aria-disabled', String(this.starts.length < 2));
    this.after.setAttribute('aria-disabled', String(!this.next));
    this.node.classList.toggle('single', this.starts.length < 2 && !this.next && !this.failure);
    const words = this.failure ?? (this.starts.length > 1 || this.next ? `Page ${this.starts.length}` : '');
    if (this.words.textContent !== words) this.words.textContent = words;
  }

  close() {
    this.asked += 1;
  }
}
