/** The microphone in the audio thread: mono, resampled, cut into chunks of PCM16 with their level. */
import { Resampler } from "./resampler.js";

class CaptureProcessor extends AudioWorkletProcessor {
  /** options.processorOptions: {rate: frames per second wanted, chunkMs: length of the chunks}. */
  constructor({ processorOptions: { rate, chunkMs } }) {
    super();
    this.resampler = new Resampler(sampleRate, rate);
    this.chunk = new Float32Array(Math.round((rate * chunkMs) / 1000));
    this.filled = 0;
  }

  process([channels]) {
    if (!channels.length) return true; // no source connected (yet)
    const mono = Float32Array.from(channels[0], (_, i) => channels.reduce((sum, c) => sum + c[i], 0) / channels.length);
    for (const sample of this.resampler.push(mono)) {
      this.chunk[this.filled++] = sample;
      if (this.filled === this.chunk.length) this.#post();
    }
    return true;
  }

  #post() {
    const pcm = Int16Array.from(this.chunk, (x) => Math.max(-32768, Math.min(32767, Math.round(x * 32768))));
    const power = this.chunk.reduce((sum, x) => sum + x * x, 0) / this.chunk.length;
    this.port.postMessage({ pcm, level: Math.sqrt(power) }, [pcm.buffer]);
    this.filled = 0;
  }
}

registerProcessor("echox-capture", CaptureProcessor);
