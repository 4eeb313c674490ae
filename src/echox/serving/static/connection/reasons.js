/** Reasons of errors, as sentences for the user of the page. Codes are those of docs/protocol.md. */

const BUSY = "The server is busy: all its places for conversations are taken.";
const RESTART = "The server is being stopped or restarted.";

/** Codes of `error` events after which the server ends the session. */
const FAREWELLS = {
  session_idle: "Nothing was said or typed for a long time, so the server ended the session.",
  session_expired: "The conversation has reached the longest time that the server allows.",
  session_limit_reached: BUSY,
  server_shutting_down: RESTART,
};

/** Codes with which a WebSocket is closed. */
const CLOSES = {
  1001: RESTART,
  1005: "The connection broke.",
  1006: "The connection broke.",
  1008: "This device did not take the speech as fast as it came, so the server ended the session.",
  1009: "Something was sent that is larger than the server takes.",
  1011: "The server made a mistake and ended the session.",
  1012: RESTART,
  1013: BUSY,
};

const BROKEN = "The server made a mistake. Its log says which.";

/** Codes of `error` events that a user of the page can meet; for others the message of the server is shown. */
const REFUSALS = {
  audio_too_long: "It is longer than the server takes as one turn.",
  input_audio_buffer_commit_empty: "Nothing was recorded. Hold the button while you speak.",
  internal_error: BROKEN,
  string_too_long: "The text is longer than the server takes.",
  ...FAREWELLS,
};

/** Codes of failed responses. */
const FAILURES = {
  internal_error: BROKEN,
  not_heard: "No words were found in it. Speak closer to the microphone, or choose another one in Settings.",
  server_busy: "The server has too much to do. Try again in a moment.",
  server_shutting_down: RESTART,
};

/** Whether a response failed because no words were heard. */
export const isUnheard = ({ code }) => code === "not_heard";

export const isFarewell = ({ code }) => code in FAREWELLS;

const words = (known, { code, message }) => known[code] ?? message ?? "The server does not say why.";

/** @param {{code?: string, message?: string}} error of an `error` event. */
export const refusal = (error) => words(REFUSALS, error);

/** @param {{code?: string, message?: string}} error of a failed response. */
export const failure = (error) => words(FAILURES, error);

/**
 * Why a session ended.
 * @param {number} code of the close. @param {string} reason from the server. @param {object} [farewell] the error event before it.
 * @returns {{text: string}}
 */
export function whyClosed(code, reason, farewell) {
  if (farewell) return { text: refusal(farewell) };
  return { text: CLOSES[code] ?? `The server closed the connection (${[code, reason].filter(Boolean).join(", ")}).` };
}

/**
 * Why a session could not be opened. A browser does not report it, so the page asks over HTTP.
 * @param {number | null} status of `/v1/models`, null: no answer. @param {string} key that was sent, "" for none.
 * @returns {{text: string, remedy?: "key"}}
 */
export function whyRefused(status, key = "") {
  if (status === null) return { text: "The server does not answer." };
  if (status === 401) {
    const text = key ? "The server does not accept this API key." : "The server asks for an API key.";
    return { text, remedy: "key" };
  }
  if (status === 403) {
    return {
      text: `The server does not let pages from ${location.host} in. If there is a proxy in front of it, the proxy has to pass on the Host header with its port; else start the server with --allow-origin ${location.origin}.`,
    };
  }
  if (status >= 500) return { text: "The server is not ready." };
  return { text: "The server answers, but WebSockets do not get through to it. A proxy in front of it may not pass them on." };
}
