/** The sound that the microphone sent lately: where it is in the session's time, and to be saved with a turn. */
import { RATE } from "./audio.js";

const KEPT_S = 130;

export class SentAudio {
  constructor() {
    this.pieces = [];
    this.keptFrames = this.frames = 0; // kept, and all that was ever sent
    this.lastAt = performance.now();
  }

  /** @param {Int16Array} pcm that was sent now */
  add(pcm) {
    this.frames += pcm.length;
    this.lastAt = performance.now();
    this.pieces.push(pcm);
    this.keptFrames += pcm.length;
    while (this.keptFrames > KEPT_S * RATE) this.keptFrames -= this.pieces.shift().length;
  }

  /** When, by the clock of the page, the sound of a time of the session was sent. @param {number} ms */
  sentAt(ms) {
    return this.lastAt - ((this.frames / RATE) * 1000 - ms);
  }

  /** The sound between two times of the session, ms; what is no longer kept is left out. @returns {Int16Array} */
  between(startMs, endMs) {
    const first = this.frames - this.keptFrames;
    const frames = new Int16Array(this.keptFrames);
    let done = 0;
    for (const piece of this.pieces) {
      frames.set(piece, done);
      done += piece.length;
    }
    const at = (ms) => Math.max(0, Math.round((ms / 1000) * RATE) - first);
    return frames.slice(at(startMs), at(endMs));
  }
}
