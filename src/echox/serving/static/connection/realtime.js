/**
 * The connection: a call (WebRTC), or else one WebSocket, that speaks the OpenAI Realtime protocol (GA event names), opened
 * when it is needed and opened again when it breaks.
 */
import { CallSocket } from "./call.js";
import { isFarewell, refusal, whyClosed, whyRefused } from "./reasons.js";

const RETRY_S = [0.5, 1, 2, 4, 8, 15];
const TRY_AGAIN = 1013;
const RECONNECT_CODES = new Set([1001, 1005, 1006, 1011, 1012, TRY_AGAIN]); // going away, broken, restarting, full
const ANSWER_S = 10;
const OPEN_MS = 5000; // for the handshake, or the sound of a call
const KNOCK_MS = 2500; // without an answer to a call: is the server there, and has no free place? As long for the answer
const PART_CHARS = 16_384; // of a longer event, in one message
const PARTS_AT_ONCE = 4; // that the server has not taken: pings come through between them
const CHECK_MS = 250;
const PING_MS = 1000; // from an answer to the next ping
const SILENT_MS = 3000; // without an answer: the page reports it (5 s after the server stopped to answer, at the latest)
const DEAD_MS = 20_000; // without an answer: the connection is closed

/** The server has refused an event. */
export class Refused extends Error {
  constructor(error) {
    super(refusal(error));
    this.code = error.code;
  }
}

/** There is no session; `remedy` is "key" if an API key is needed. */
export class Unreachable extends Error {
  constructor(text, remedy) {
    super(text);
    this.remedy = remedy;
  }
}

/** A call cannot be made, or cannot be heard; a WebSocket may do. */
class NoCall extends Error {}

const bearer = (key) => (key ? { Authorization: `Bearer ${key}` } : {});

/** A key in letters that a subprotocol may have. */
const base64Url = (key) => btoa(key).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");

/**
 * Events: `state` (detail {state: closed | connecting | open | waiting, reason, retryS, remedy}), `server` (detail: one
 * event of the server), `open` (a new session, which knows nothing of an older one), `silent` (detail: whether the
 * server has stopped answering; the session may still come back).
 */
export class Connection extends EventTarget {
  /**
   * @param {URL} url of the endpoint. @param {() => string} key the API key, "" for none.
   * @param {() => Promise<string>} whyNoCall "" if a call can be tried, else why not.
   * @param {(stream: MediaStream) => Promise<void>} listen plays the voice of a call.
   */
  constructor(url, key, whyNoCall, listen) {
    super();
    Object.assign(this, { url, key, whyNoCall, listen });
    this.failedCall = ""; // why calls do not work here: none is tried again
    this.way = ""; // how the session is carried, in words
    this.state = "closed";
    this.silent = false; // the server does not answer
    this.remedy = ""; // what the user can do about the last refusal
    this.attempt = 0;
    this.sent = 0;
    this.uploading = Promise.resolve(); // the last event that is sent in parts
    this.answers = new Map(); // event_id of this page (or a symbol) -> the request that waits for an answer
  }

  /** Open a session if there is none. @throws {Error} it could not be opened. */
  async ready() {
    if (this.state === "open") return;
    clearTimeout(this.timer);
    this.opening ??= this.#open().finally(() => (this.opening = null));
    await this.opening;
  }

  /** The call that carries the session; null: a WebSocket does. */
  get call() {
    return this.socket instanceof CallSocket ? this.socket : null;
  }

  /** Calls may work again: the network or the settings are others. */
  forgetFailure() {
    this.failedCall = "";
  }

  async #open() {
    this.remedy = "";
    this.#enter("connecting");
    const key = this.key();
    if (/[^ -~]/.test(key)) return this.#refuse(whyRefused(401, key)); // no server has such a key: no header can carry it
    try {
      return await this.#openBest(key);
    } catch (error) {
      if (error instanceof Unreachable) throw error;
      return this.#refuse({ text: `The browser could not connect (${error.name}).` }); // its own words may show the key
    }
  }

  #refuse({ text, remedy = "" }) {
    this.remedy = remedy;
    this.#enter("closed", text);
    throw new Unreachable(text, remedy);
  }

  /** A call, or a WebSocket. */
  async #openBest(key) {
    const why = this.failedCall ? "" : await this.whyNoCall();
    if (!this.failedCall && !why) {
      this.way = "WebRTC";
      try {
        return await this.#opened(this.#newCall(key), key);
      } catch (error) {
        if (!(error instanceof NoCall)) throw error;
        this.failedCall = error.message;
      }
    }
    this.way = why ? `WebSocket: ${why}` : `WebSocket, as a call (WebRTC) failed: ${this.failedCall}`;
    const url = new URL(this.url);
    url.protocol = url.protocol.replace("http", "ws");
    return this.#opened(new WebSocket(url, ["realtime", ...(key ? [`echox-api-key.${base64Url(key)}`] : [])]), key);
  }

  #newCall(key) {
    try {
      return new CallSocket(new URL("realtime/calls", this.url), bearer(key), this.listen);
    } catch ({ name }) {
      throw new NoCall(`The browser cannot make one (${name}).`);
    }
  }

  /** The session of a socket that is being opened. */
  #opened(socket, key) {
    this.socket = socket;
    let farewell = null; // the error with which the server closes
    let timer;
    const limit = (ms, run = () => this.#drop(socket)) => {
      clearTimeout(timer);
      timer = setTimeout(run, ms);
    };
    const wait = (ms) =>
      limit(ms, async () => {
        const mine = timer;
        const isThere = (await this.#probe(key, KNOCK_MS)) !== null; // and has no free place
        if (mine === timer) isThere ? wait(DEAD_MS) : this.#drop(socket);
      });
    const stop = () => (timer = clearTimeout(timer));
    return new Promise((resolve, reject) => {
      this.call ? wait(KNOCK_MS) : limit(OPEN_MS);
      socket.onanswer = () => limit(OPEN_MS, () => this.#drop(socket, { noCall: "There was no answer in time." }));
      socket.onopen = () => wait(DEAD_MS);
      socket.onmessage = ({ data }) => {
        const event = JSON.parse(data);
        this.heardAt = performance.now();
        this.#setSilent(false);
        if (event.type === "session.created") {
          stop();
          this.attempt = 0;
          this.#enter("open");
          this.#beat(socket);
          this.dispatchEvent(new CustomEvent("open", { detail: event.session }));
          resolve();
        } else if (event.type === "error" && isFarewell(event.error)) {
          farewell = event.error;
        }
        event.expected = event.error === farewell && farewell !== null; // reported when the connection closes
        this.#resolve(event);
        this.dispatchEvent(new CustomEvent("server", { detail: event }));
      };
      socket.onclose = async ({ code, reason, unanswered, status, error, noCall }) => {
        stop();
        if (socket !== this.socket) return reject(new Unreachable("The session was ended.")); // by this page: a newer one may be open
        clearInterval(this.beating);
        this.#setSilent(false);
        const wasOpen = this.state === "open";
        const full = status === 503;
        if (status && !full && ![401, 403].includes(status)) noCall = error?.message ?? `The server answered ${status}.`;
        if (this.call && !(wasOpen || status || unanswered || farewell)) noCall ??= "It ended at once.";
        if (noCall) return reject(new NoCall(noCall)); // a WebSocket is tried
        this.state = "closed";
        const opened = wasOpen || farewell || reason;
        const found = unanswered
          ? whyRefused(null)
          : full
            ? { text: refusal(error ?? {}) }
            : opened
              ? whyClosed(code, reason, farewell)
              : whyRefused(status ?? (await this.#probe(key)), key);
        this.remedy = found.remedy ?? "";
        this.#fail(found.text);
        reject(new Unreachable(found.text, found.remedy));
        if (socket !== this.socket) return; // closed by this page meanwhile
        const ended = this.call && farewell; // a call has no codes of its own
        const retry = full || (!ended && (wasOpen || this.attempt > 0 ? RECONNECT_CODES.has(code) : code === TRY_AGAIN));
        const again = (retry || farewell?.code === "session_expired") && !found.remedy;
        if (again && this.attempt < RETRY_S.length) this.#retryLater(found.text);
        else this.#enter("closed", found.text);
      };
    });
  }

  /** The HTTP status of the server for this key; null: no answer. */
  async #probe(key, ms = OPEN_MS) {
    try {
      return (await fetch(new URL("models", this.url), { headers: bearer(key), signal: AbortSignal.timeout(ms) })).status;
    } catch {
      return null;
    }
  }

  /** Ping the server regularly; any event counts as an answer. */
  #beat(socket) {
    let askedAt = this.heardAt;
    clearInterval(this.beating);
    this.beating = setInterval(() => {
      const now = performance.now();
      if (askedAt <= this.heardAt) {
        if (now - this.heardAt < PING_MS) return;
        if (this.send({ type: "echox.ping" })) askedAt = now;
      } else if (now - askedAt > DEAD_MS) this.#drop(socket);
      else if (now - askedAt > SILENT_MS) this.#setSilent(true);
    }, CHECK_MS);
  }

  #setSilent(silent) {
    if (silent === this.silent) return;
    this.silent = silent;
    this.dispatchEvent(new CustomEvent("silent", { detail: silent }));
  }

  /** Close a socket whose server does not answer, without waiting for its close frame. */
  #drop(socket, why = { unanswered: true }) {
    const { onclose } = socket;
    socket.onclose = socket.onmessage = socket.onopen = null;
    socket.close();
    onclose?.({ code: 1006, reason: "", ...why });
  }

  #retryLater(reason) {
    const retryS = RETRY_S[this.attempt++];
    this.#enter("waiting", reason, retryS);
    this.timer = setTimeout(() => this.ready().catch(() => {}), retryS * 1000); // the state shows it
  }

  #enter(state, reason = "", retryS = 0) {
    this.state = state;
    this.dispatchEvent(new CustomEvent("state", { detail: { state, reason, retryS, remedy: this.remedy } }));
  }

  /** End the session. */
  close() {
    clearTimeout(this.timer);
    clearInterval(this.beating);
    this.#setSilent(false);
    const socket = this.socket;
    this.socket = null;
    socket?.close(1000);
    this.#fail("The session was ended.");
    this.#enter("closed");
  }

  /** Send an event if there is a session. @returns {boolean} it was sent. */
  send(event) {
    return this.#put(this.#write(event).text);
  }

  #write(event) {
    const id = `page_${++this.sent}`;
    return { id, text: JSON.stringify({ event_id: id, ...event }) };
  }

  #put(text) {
    if (this.state !== "open" || this.socket.readyState !== WebSocket.OPEN) return false;
    this.socket.send(text);
    return true;
  }

  /**
   * Send an event and wait for the one that answers it. A long one is sent in parts: a call takes no long messages, and
   * nothing gets past one on a slow network.
   * @param {(event: object) => boolean} isAnswer
   * @returns {Promise<object>} the answer. @throws {Refused} the server's error. @throws {Error} no session, no answer.
   */
  ask(event, isAnswer) {
    const { id, text } = this.#write(event);
    if (text.length <= PART_CHARS) return this.#askAtOnce(id, text, event.type, isAnswer);
    const done = this.uploading.then(() => this.#askInParts(text, () => this.#answer(id, event.type, isAnswer)));
    this.uploading = done.catch(() => {}); // the next one does not care
    return done;
  }

  #askAtOnce(id, text, type, isAnswer) {
    return this.#put(text) ? this.#answer(id, type, isAnswer) : Promise.reject(new Error("There is no connection."));
  }

  async #askInParts(text, answer) {
    const parts = text.match(new RegExp(`[^]{1,${PART_CHARS}}`, "gu")); // whole characters
    const taken = [];
    const put = (index) => {
      const type = "echox.event.part";
      const { id, text: part } = this.#write({ type, index, count: parts.length, text: parts[index] });
      taken[index] = this.#askAtOnce(id, part, type, (event) => event.type === "echox.event.taken" && event.index === index);
      taken[index].catch(() => {}); // it is waited for below
    };
    const last = parts.length - 1;
    for (let index = 0; index < last; index++) {
      if (index >= PARTS_AT_ONCE) await taken[index - PARTS_AT_ONCE];
      put(index);
    }
    await Promise.all(taken); // so that the time for the answer begins now
    const answered = answer();
    answered.catch(() => {}); // the last part may be refused before
    put(last);
    await taken[last];
    return answered;
  }

  #answer(id, type, isAnswer) {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => this.#forget(id, new Error(`The server did not answer ${type}.`)), ANSWER_S * 1000);
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

  #resolve(event) {
    for (const [id, { isAnswer, resolve, timer }] of this.answers) {
      if (event.type === "error" && event.error.event_id === id) {
        event.expected = true; // the caller reports it
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
