/** What this browser keeps for the page. Browsers may keep nothing at all (cookies blocked); the page then forgets. */
export const forBrowser = () => new Storage(() => window.localStorage);
export const forTab = () => new Storage(() => window.sessionStorage);

class Storage {
  /** @param {() => globalThis.Storage} open throws where nothing may be kept. */
  constructor(open) {
    try {
      this.items = open();
    } catch {
      this.items = null;
    }
  }

  /** @returns {any} what was kept; undefined: nothing, or nothing that can be read. */
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
