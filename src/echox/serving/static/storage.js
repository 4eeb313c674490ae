/** Storage of the browser. It may be unavailable (cookies blocked); then nothing is kept. */
export const forBrowser = () => new Storage(() => window.localStorage);
export const forTab = () => new Storage(() => window.sessionStorage);

class Storage {
  /** @param {() => globalThis.Storage} open throws if storage is unavailable. */
  constructor(open) {
    try {
      this.items = open();
    } catch {
      this.items = null;
    }
  }

  /** @returns {any} the stored value; undefined: none, or unreadable. */
  get(name) {
    try {
      return JSON.parse(this.items?.getItem(name) ?? "null") ?? undefined;
    } catch {
      return undefined;
    }
  }

  set(name, value) {
    try {
      this.items?.setItem(name, JSON.stringify(value));
    } catch {
      this.items = null; // full
    }
  }
}
