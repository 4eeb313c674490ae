/**
 * The wire: one WebSocket that speaks the OpenAI Realtime protocol (GA event names), opened when it is needed and opened
 * again when it breaks.
 */
const RETRY_S = [0.5, 1, 2, 4, 8, 15];
const TRY_AGAIN = 1013;
const RECONNECT_CODES = new Set([1001, 1005, 1006, 1011, 1012, TRY_AGAIN]); // going away, broken, restarting, full
const FAREWELL = /^(session_|server_shutting_down)/; // codes of errors that end a session
const ANSWER_S = 10;

/** The server said no to one event. */
export class Refused extends Error {
  constructor({ code, message }) {
    super(message);
    this.code = code;
  }
}

/**
 * Events: `state` (detail {state: closed | connecting | open | waiting, reason, retryS}), `server` (detail: one event of
 * the server), `open` (a new session; nothing of an older one is known to it).
 */
export class Connection extends EventTarget {
  /** @param {URL} url of the endpoint. @param {() => string} key the API key, "" for none. */
  constructor(url, key) {
    super();
    this.url = url;
    this.key = key;
    this.state = "closed";
    this.attempt = 0;
    this.sent = 0;
    this.answers = new Map(); // event_id of ours (or a symbol) -> who waits for an answer
  }

  /** A session, opened now if there is none. @throws {Error} it could not be opened. */
  async ready() {
    if (this.state === "open") return;
    clearTimeout(this.timer);
    this.opening ??= this.#open().finally(() => (this.opening = null));
    await this.opening;
  }

  #open() {
    this.#enter("connecting");
    const url = new URL(this.url);
    url.protocol = url.protocol.replace("http", "ws");
    const key = this.key();
    const socket = new WebSocket(url, ["realtime", ...(key ? [`openai-insecure-api-key.${key}`] : [])]);
    this.socket = socket;
    let farewell = null; // why the server is about to close
    return new Promise((resolve, reject) => {
      socket.onmessage = ({ data }) => {
        const event = JSON.parse(data);
        if (event.type === "session.created") {
          this.attempt = 0;
          this.#enter("open");
          this.dispatchEvent(new CustomEvent("open", { detail: event.session }));
          resolve();
        } else if (event.type === "error" && FAREWELL.test(event.error.code)) {
          farewell = event.error;
        }
        event.expected = event.error === farewell && farewell !== null; // told when the connection closes
        this.#settle(event);
        this.dispatchEvent(new CustomEvent("server", { detail: event }));
      };
      socket.onclose = async ({ code, reason }) => {
        const wasOpen = this.state === "open";
        this.state = "closed";
        const why = farewell?.message || reason || (await this.#diagnose(wasOpen));
        this.#fail(why);
        reject(new Error(why));
        if (socket !== this.socket) return; // closed by us
        const retry = wasOpen || this.attempt > 0 ? RECONNECT_CODES.has(code) : code === TRY_AGAIN;
        if ((retry || farewell?.code === "session_expired") && this.attempt < RETRY_S.length) this.#retryLater(why);
        else this.#enter("closed", why);
      };
    });
  }

  /** A browser does not say why a handshake failed: ask the server over HTTP. */
  async #diagnose(wasOpen) {
    try {
      const { ok } = await fetch(new URL("../health", this.url));
      if (wasOpen) return "The connection broke.";
      return ok ? "The server refused the connection: it wants an API key (see Settings)." : "The server is not ready.";
    } catch {
      return "The server does not answer.";
    }
  }

  #retryLater(reason) {
    const retryS = RETRY_S[this.attempt++];
    this.#enter("waiting", reason, retryS);
    this.timer = setTimeout(() => this.ready().catch(() => {}), retryS * 1000); // the state tells
  }

  #enter(state, reason = "", retryS = 0) {
    this.state = state;
    this.dispatchEvent(new CustomEvent("state", { detail: { state, reason, retryS } }));
  }

  /** End the session. */
  close() {
    clearTimeout(this.timer);
    const socket = this.socket;
    this.socket = null;
    socket?.close(1000);
    this.#fail("The session was ended.");
    this.#enter("closed");
  }

  /** Send an event if there is a session. @returns {boolean} it was sent. */
  send(event) {
    if (this.state !== "open" || this.socket.readyState !== WebSocket.OPEN) return false;
    this.socket.send(JSON.stringify({ event_id: `page_${++this.sent}`, ...event }));
    return true;
  }

  /**
   * Send an event and wait for the one that answers it.
   * @param {(event: object) => boolean} isAnswer
   * @returns {Promise<object>} the answer. @throws {Refused} the server's error. @throws {Error} no session, no answer.
   */
  ask(event, isAnswer) {
    return new Promise((resolve, reject) => {
      if (!this.send(event)) return reject(new Error("There is no connection."));
      const id = `page_${this.sent}`;
      const timer = setTimeout(() => this.#forget(id, new Error(`The server did not answer ${event.type}.`)), ANSWER_S * 1000);
      this.answers.set(id, { isAnswer, resolve, reject, timer });
    });
  }

  /** Wait for an event. */
  next(isAnswer) {
    return new Promise((resolve, reject) => {
      const id = Symbol("wait");
      const timer = setTimeout(() => this.#forget(id, new Error("The server did not answer.")), ANSWER_S * 1000);
      this.answers.set(id, { isAnswer, resolve, reject, timer });
    });
  }

  #settle(event) {
    for (const [id, { isAnswer, resolve, timer }] of this.answers) {
      if (event.type === "error" && event.error.event_id === id) {
        event.expected = true; // whoever asked will tell
        this.#forget(id, new Refused(event.error));
      } else if (isAnswer(event)) {
        clearTimeout(timer);
        this.answers.delete(id);
        resolve(event);
      }
    }
  }

  #forget(id, error) {
    const { reject, timer } = this.answers.get(id);
    clearTimeout(timer);
    this.answers.delete(id);
    reject(error);
  }

  #fail(reason) {
    for (const id of [...this.answers.keys()]) this.#forget(id, new Error(reason));
  }
}
