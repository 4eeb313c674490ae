/**
 * Playback queue of one conversation: plays speech without gaps although it arrives in bursts, and counts exactly which
 * frames of which reply were played, so that an interruption can be cut where it was heard.
 *
 * It uses neither a clock nor Web Audio. The sound card calls `pull` through an AudioWorklet; nothing else measures time.
 */
export class JitterBuffer {
  /**
   * @param {number} rate frames per second.
   * @param {(event: {type: string, item: string, played: number, buffered: number}) => void} notify called for `started`,
   *   `underrun` and `ended`; lengths are frames.
   * @param {{startMs?: number, maxMs?: number, fadeMs?: number}} options buffered length before a reply starts;
   *   its maximum after underruns; length of every fade.
   */
  constructor(rate, notify, { startMs = 60, maxMs = 480, fadeMs = 8 } = {}) {
    this.rate = rate;
    this.notify = notify;
    this.target = (startMs / 1000) * rate;
    this.maxTarget = (maxMs / 1000) * rate;
    this.fade = Math.max(1, Math.round((fadeMs / 1000) * rate));
    this.level = 1; // volume: 1, or less while ducked
    this.underruns = 0;
    this.items = []; // in order of playing: {id, chunks, buffered, played, ended, started}
    this.tail = []; // the rest of a flushed reply, fading out
    this.gain = 0;
    this.running = false;
    this.waited = 0;
  }

  /** Frames that have arrived and were not played. */
  get buffered() {
    return this.items.reduce((sum, item) => sum + item.buffered, 0);
  }

  /** Add speech of a reply; replies play one after the other. */
  push(id, samples) {
    let item = this.items.find((candidate) => candidate.id === id);
    if (!item) {
      item = { id, chunks: [], buffered: 0, played: 0, ended: false, started: false, starved: false };
      this.items.push(item);
    }
    if (item.starved) this.#countHole(item);
    item.chunks.push(samples);
    item.buffered += samples.length;
  }

  /** The speech of this reply is complete. */
  end(id) {
    const item = this.items.find((candidate) => candidate.id === id);
    if (item) item.ended = true;
  }

  /**
   * Drop everything, with a short fade.
   * @returns {{item: string, played: number}[]} the played frames of each dropped reply.
   */
  flush() {
    const dropped = this.items.map(({ id, played }) => ({ item: id, played }));
    this.tail = this.running && this.items.length ? [this.#take(this.items[0], this.fade)] : [];
    this.items = [];
    this.running = false;
    this.waited = 0;
    return dropped;
  }

  /** Fill one block of output. */
  pull(out) {
    out.fill(0);
    if (this.tail.length) this.#fadeOut(out);
    let done = 0;
    while (done < out.length && this.items.length) {
      const item = this.items[0];
      if (!item.buffered && item.ended) {
        this.items.shift();
        this.running = false;
        this.waited = 0;
        this.notify({ type: "ended", item: item.id, played: item.played, buffered: 0 });
        continue;
      }
      if (!this.running && !this.#ready(item, out.length - done)) return;
      done += this.#play(item, out, done);
      if (!item.buffered && !item.ended) {
        this.#starve(item);
        return;
      }
    }
  }

  /** Whether enough is buffered, or the wait was long enough. */
  #ready(item, frames) {
    if (!item.buffered) return false;
    this.waited += frames;
    if (!item.ended && item.buffered < this.target && this.waited < this.target) return false;
    this.running = true;
    this.waited = 0;
    this.gain = 0;
    if (!item.started) {
      item.started = true;
      this.notify({ type: "started", item: item.id, played: 0, buffered: item.buffered });
    }
    return true;
  }

  /** The buffer is empty before the end of the reply: a gap if more arrives, otherwise the end. */
  #starve(item) {
    this.running = false;
    this.waited = 0;
    item.starved = true;
  }

  /** More arrived after a gap: count it, and buffer more before playing. */
  #countHole(item) {
    item.starved = false;
    this.underruns += 1;
    this.target = Math.min(this.maxTarget, this.target * 2);
    this.notify({ type: "underrun", item: item.id, played: item.played, buffered: 0 });
  }

  #play(item, out, start) {
    const frames = Math.min(out.length - start, item.buffered);
    const before = item.buffered;
    const samples = this.#take(item, frames);
    for (let i = 0; i < frames; i++) {
      const starving = !item.ended && before - i <= this.fade; // a gap follows: fade out, without a click
      this.#step(starving ? 0 : this.level);
      out[start + i] += samples[i] * this.gain;
    }
    item.played += frames;
    return frames;
  }

  #fadeOut(out) {
    const samples = this.tail.pop();
    const frames = Math.min(samples.length, out.length);
    for (let i = 0; i < frames; i++) {
      this.#step(0);
      out[i] += samples[i] * this.gain;
    }
    if (frames < samples.length) this.tail.push(samples.subarray(frames));
  }

  #step(goal) {
    const most = 1 / this.fade;
    this.gain += Math.max(-most, Math.min(most, goal - this.gain));
  }

  #take(item, frames) {
    const taken = new Float32Array(Math.min(frames, item.buffered));
    let done = 0;
    while (done < taken.length) {
      const chunk = item.chunks[0];
      const part = chunk.subarray(0, taken.length - done);
      taken.set(part, done);
      done += part.length;
      if (part.length === chunk.length) item.chunks.shift();
      else item.chunks[0] = chunk.subarray(part.length);
    }
    item.buffered -= taken.length;
    return taken;
  }
}
