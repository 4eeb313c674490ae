/**
 * Streaming resampler, any rate to any rate: windowed sinc, its low-pass below the lower of the two Nyquist rates.
 * Microphones and loudspeakers have the rate of the machine (44.1 or 48 kHz); the protocol has 24 kHz.
 */
const ZERO_CROSSINGS = 16; // of the sinc on each side: more is steeper
const STEPS = 256; // table entries per zero crossing
const ROLL_OFF = 0.94; // of Nyquist, so that the transition band ends there

export class Resampler {
  /** @param {number} from input frames per second. @param {number} to output frames per second. */
  constructor(from, to) {
    this.step = from / to;
    this.cutoff = ROLL_OFF * Math.min(1, to / from); // relative to the input's Nyquist
    this.reach = Math.ceil(ZERO_CROSSINGS / this.cutoff); // input frames on each side
    this.table = sincTable();
    this.history = new Float32Array(this.reach); // silence before the first frame
    this.position = this.reach; // of the next output frame, in frames of history
  }

  /** @param {Float32Array} input @returns {Float32Array} the frames that are ready. */
  push(input) {
    const frames = new Float32Array(this.history.length + input.length);
    frames.set(this.history);
    frames.set(input, this.history.length);
    const count = Math.max(0, Math.ceil((frames.length - this.reach - this.position) / this.step));
    const out = new Float32Array(count);
    for (let i = 0; i < count; i++) {
      out[i] = this.#at(frames, this.position);
      this.position += this.step;
    }
    const keep = Math.max(0, Math.min(frames.length, Math.floor(this.position) - this.reach));
    this.history = frames.slice(keep);
    this.position -= keep;
    return out;
  }

  /** @returns {Float32Array} the last frames: silence follows. */
  end() {
    return this.push(new Float32Array(this.reach));
  }

  #at(frames, position) {
    const first = Math.max(0, Math.ceil(position - this.reach));
    const last = Math.min(frames.length - 1, Math.floor(position + this.reach));
    let sum = 0;
    for (let j = first; j <= last; j++) {
      const place = Math.abs(position - j) * this.cutoff * STEPS;
      const index = Math.floor(place);
      if (index + 1 >= this.table.length) continue;
      sum += frames[j] * (this.table[index] + (place - index) * (this.table[index + 1] - this.table[index]));
    }
    return sum * this.cutoff;
  }
}

/** One side of a Blackman-windowed sinc. */
function sincTable() {
  const length = ZERO_CROSSINGS * STEPS + 1;
  return Float32Array.from({ length }, (_, i) => {
    const x = (Math.PI * i) / STEPS;
    const w = (Math.PI * i) / (length - 1);
    return (i ? Math.sin(x) / x : 1) * (0.42 + 0.5 * Math.cos(w) + 0.08 * Math.cos(2 * w));
  });
}
