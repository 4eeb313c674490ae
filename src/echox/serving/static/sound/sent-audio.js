/** The sound that the microphone sent lately: where it is in the session's time, and to be saved with a turn. */
import { RATE } from "./audio.js";

const KEPT_S = 130;

export class SentAudio {
  /** @param {boolean} runs the session's time goes on while nothing is sent: a call, where what is missing is silence. */
  constructor(runs = false) {
    this.runs = runs;
    this.pieces = []; // {pcm, at}: when it was sent, by the clock of the page
    this.keptFrames = this.frames = 0; // kept, and all that was ever sent
    this.paused = false;
  }

  /** Nothing was sent since the last piece: the microphone was off, or nobody listened to it. */
  pause() {
    this.paused = true;
  }

  /** @param {Int16Array} pcm that was sent now */
  add(pcm, now = performance.now()) {
    if (this.paused && this.runs && this.pieces.length) this.#fill(now - (pcm.length / RATE) * 1000);
    this.paused = false;
    this.#keep(pcm, now);
  }

  /** Silence from the last piece to a time; only what would be kept of it. @param {number} until */
  #fill(until) {
    const begin = this.pieces.at(-1).at;
    const missing = Math.max(0, Math.round(((until - begin) / 1000) * RATE));
    const kept = Math.min(missing, KEPT_S * RATE);
    this.frames += missing - kept;
    for (let left = kept; left > 0; left -= RATE) this.#keep(new Int16Array(Math.min(left, RATE)), until - (Math.max(0, left - RATE) / RATE) * 1000);
  }

  #keep(pcm, at) {
    this.frames += pcm.length;
    this.keptFrames += pcm.length;
    this.pieces.push({ pcm, at });
    while (this.keptFrames > KEPT_S * RATE) this.keptFrames -= this.pieces.shift().pcm.length;
  }

  /** When, by the clock of the page, the sound of a time of the session was sent. @param {number} ms */
  sentAt(ms, now = performance.now()) {
    if (!this.pieces.length) return now;
    const frame = (ms / 1000) * RATE;
    let index = this.pieces.length - 1;
    let end = this.frames;
    while (index > 0 && frame <= end - this.pieces[index].pcm.length) end -= this.pieces[index--].pcm.length;
    return Math.min(now, this.pieces[index].at - ((end - frame) / RATE) * 1000);
  }

  /** The sound between two times of the session, ms; what is no longer kept is left out. @returns {Int16Array} */
  between(startMs, endMs) {
    const first = this.frames - this.keptFrames;
    const frames = new Int16Array(this.keptFrames);
    let done = 0;
    for (const { pcm } of this.pieces) {
      frames.set(pcm, done);
      done += pcm.length;
    }
    const at = (ms) => Math.max(0, Math.round((ms / 1000) * RATE) - first);
    return frames.slice(at(startMs), at(endMs));
  }
}
