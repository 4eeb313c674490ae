/** The jitter buffer in the audio thread. In: push, end, flush, duck. Out: started, underrun, ended, flushed, progress. */
import { JitterBuffer } from "./jitter-buffer.js";

const PROGRESS_S = 0.05;

class PlaybackProcessor extends AudioWorkletProcessor {
  constructor() {
    super();
    this.buffer = new JitterBuffer(sampleRate, (event) => this.port.postMessage(event));
    this.reported = 0;
    this.port.onmessage = ({ data }) => this.#command(data);
  }

  process(_, [[out]]) {
    this.buffer.pull(out);
    const item = this.buffer.items[0];
    if (item && currentTime - this.reported >= PROGRESS_S) {
      this.reported = currentTime;
      this.port.postMessage({ type: "progress", item: item.id, played: item.played, buffered: this.buffer.buffered });
    }
    return true;
  }

  #command({ type, item, samples, level }) {
    if (type === "push") this.buffer.push(item, samples);
    else if (type === "end") this.buffer.end(item);
    else if (type === "duck") this.buffer.level = level;
    else if (type === "flush") this.port.postMessage({ type: "flushed", dropped: this.buffer.flush() });
  }
}

registerProcessor("echox-playback", PlaybackProcessor);
