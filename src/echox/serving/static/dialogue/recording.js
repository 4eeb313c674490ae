/** What is said while the button is held: kept here, so that no word is lost if the connection breaks meanwhile. */
import { RATE, concatenate } from "../sound/audio.js";

export const LONGEST_TURN_S = 120; // that the server accepts
const SHORTEST_TURN_S = 0.25;

export class Recording {
  /** @param {string | null} session id of the session to which it is sent as it is said */
  constructor(session) {
    this.session = session;
    this.pieces = [];
    this.frames = 0;
  }

  /** @param {Int16Array} pcm @returns {boolean} false: it is as long as a turn may be, and ends before this. */
  add(pcm) {
    if (this.frames + pcm.length > LONGEST_TURN_S * RATE) return false;
    this.pieces.push(pcm);
    this.frames += pcm.length;
    return true;
  }

  /** Whether it is long enough for a turn. */
  get enough() {
    return this.frames >= SHORTEST_TURN_S * RATE;
  }

  get pcm() {
    return concatenate(this.pieces);
  }
}
