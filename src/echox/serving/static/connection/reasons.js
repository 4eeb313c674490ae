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

/** Codes of errors that a user of the page can meet; for others the message of the server is shown. */
const MISTAKES = {
  audio_too_long: "It is longer than the server takes as one turn.",
  input_audio_buffer_commit_empty: "Nothing was recorded. Hold the button while you speak.",
  input_audio_buffer_full: "It is longer than the server takes as one turn.",
  internal_error: "The server made a mistake. Its log says which.",
  not_heard: "No speech was found in it. Speak closer to the microphone, or choose another one in Settings.",
  nothing_to_answer: "No speech was found in it, so there is nothing to answer.",
  server_busy: "The server has too much to do. Try again in a moment.",
  string_too_long: "The text is longer than the server takes.",
};

/** Whether a turn was not understood because nothing, or no speech, was heard. */
export const isUnheard = ({ code }) => ["not_heard", "nothing_to_answer", "input_audio_buffer_commit_empty"].includes(code);

export const isFarewell = ({ code }) => code in FAREWELLS;

/** @param {{code?: string, message?: string}} error of an event or a response. */
export const mistake = ({ code, message }) => FAREWELLS[code] ?? MISTAKES[code] ?? message ?? "The server does not say why.";

/**
 * Why a session ended.
 * @param {number} code of the close. @param {string} reason from the server. @param {object} [farewell] the error event before it.
 * @returns {{text: string}}
 */
export function whyClosed(code, reason, farewell) {
  if (farewell) return { text: mistake(farewell) };
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
