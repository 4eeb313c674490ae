/** Audio input and output: microphone, player, audio files, WAV. Audio to and from the server is 24 kHz PCM16. */
import { JitterBuffer } from "./jitter-buffer.js";
import { Resampler } from "./resampler.js";

export const RATE = 24000;
const CHUNK_MS = 20;
const FALLBACK_FRAMES = 2048;
const FLUSH_MS = 500; // a context that the system has stopped may answer nothing
const RING_TONES = 3;
const RING_S = 0.25;
const RING_HZ = 880;

/** Whether this page can use a microphone. Browsers require HTTPS or localhost. */
export const microphoneAllowedHere = () => window.isSecureContext && Boolean(navigator.mediaDevices?.getUserMedia);

/** A context at the rate of the device: a stream of another rate cannot be joined to one in Firefox. @param {() => void} onState */
function contextAt(onState) {
  const context = new AudioContext({ latencyHint: "interactive" });
  context.onstatechange = onState;
  return context;
}

/** Let a context run that waits for a click or that the system has stopped. Nobody waits for it: it may never happen. */
function wake(context) {
  if (context && !["running", "closed"].includes(context.state)) context.resume().catch(() => {}); // its state tells
}

/** A node that hands on what it hears, as 24 kHz chunks. @param {(chunk: {pcm: Int16Array, level: number}) => void} onChunk */
async function captureNode(context, onChunk) {
  await context.audioWorklet.addModule(new URL("capture-worklet.js", import.meta.url));
  const node = new AudioWorkletNode(context, "echox-capture", {
    numberOfOutputs: 1,
    processorOptions: { rate: RATE, chunkMs: CHUNK_MS },
  });
  node.port.onmessage = ({ data }) => onChunk(data);
  node.connect(context.destination); // it writes silence; a node without a connection would not run
  return node;
}

/** The microphone as 24 kHz chunks, with the browser's echo cancellation so that a reply does not interrupt itself. */
export class Microphone {
  /**
   * @param {(pcm: Int16Array, level: number, first: boolean) => void} onChunk `first`: since it was started.
   * @param {() => void} onLost called when the device is disconnected.
   * @param {() => void} onState called when `interrupted` may have changed.
   */
  constructor(onChunk, onLost, onState) {
    Object.assign(this, { onChunk, onLost, onState });
    this.stream = this.context = null;
    this.interrupted = false; // the system has stopped it: a phone call, a locked screen
  }

  get running() {
    return this.stream !== null;
  }

  /** The sound as a track, for a call; null: it is off. */
  get track() {
    return this.stream?.getAudioTracks()[0] ?? null;
  }

  /** Ask for permission and start. Calls while it starts share one result. @throws {DOMException} as getUserMedia. */
  start(deviceId = "", noiseSuppression = false) {
    this.starting ??= this.#start(deviceId, noiseSuppression).finally(() => (this.starting = null));
    return this.starting;
  }

  async #start(deviceId, noiseSuppression) {
    const audio = { echoCancellation: true, noiseSuppression, autoGainControl: true, channelCount: 1 };
    if (deviceId) audio.deviceId = { exact: deviceId };
    this.stream = await navigator.mediaDevices.getUserMedia({ audio });
    try {
      await this.#listen();
    } catch (error) {
      await this.stop(); // so that the browser does not show a microphone in use
      throw error;
    }
  }

  async #listen() {
    let ran = false;
    const context = contextAt(() => {
      if (context !== this.context) return; // it was switched off
      this.interrupted = ran && context.state !== "running";
      ran ||= context.state === "running";
      this.onState();
    });
    this.context = context;
    let first = true;
    const node = await captureNode(context, ({ pcm, level }) => {
      if (!this.running) return;
      this.onChunk(pcm, level, first);
      first = false;
    });
    context.createMediaStreamSource(this.stream).connect(node);
    const [track] = this.stream.getAudioTracks();
    track.onended = () => this.running && this.stop().then(this.onLost);
    this.wake();
  }

  /** Let it run. Call it from any click or key press; it may have been refused before. */
  wake() {
    wake(this.context);
  }

  async stop() {
    const { stream, context } = this;
    this.stream = this.context = null;
    this.interrupted = false;
    stream?.getTracks().forEach((track) => track.stop());
    await context?.close().catch(() => {}); // it is closed already
  }
}

/** Plays replies through the jitter buffer, or what a call brings, and counts what was heard. Event `state`: it was stopped or runs. */
export class Player extends EventTarget {
  constructor() {
    super();
    this.context = null;
    this.volume = 1;
    this.underruns = 0;
    this.now = null; // {item, playedS, bufferedS} of the reply that is audible
    this.items = new Map(); // replies that have not been played to their end -> what brings them to the rate of the device
    this.flushes = [];
    this.voiced = null; // {item, frames}: the reply that a call brings
    this.live = null; // what lowers it
    this.leave = () => {}; // ends the last call's sound
  }

  /**
   * Call it first from a click or key press; browsers allow no sound before one. It waits for no sound: what is pushed
   * before there is one is kept. @throws {DOMException} there will be none.
   */
  async open() {
    if (!this.context) {
      const context = contextAt(() => context === this.context && this.dispatchEvent(new CustomEvent("state")));
      this.context = context;
      this.#command = (message) => this.early.push(message);
      this.early = [];
      this.opened = this.#build().catch((error) => {
        this.#command = () => {};
        this.context.close().catch(() => {});
        this.context = this.output = null; // the next click tries again
        throw error;
      });
    }
    this.wake();
    await this.opened;
  }

  /** Let it run. Call it from any click or key press; it may have been refused before. */
  wake() {
    wake(this.context);
  }

  /** It should play and the browser or the system does not let it. */
  get stopped() {
    return this.context !== null && this.context.state !== "running";
  }

  async #build() {
    this.analyser = new AnalyserNode(this.context, { fftSize: 1024 });
    this.output = new GainNode(this.context, { gain: this.volume });
    this.analyser.connect(this.output).connect(this.context.destination);
    if (this.context.audioWorklet) {
      await this.context.audioWorklet.addModule(new URL("playback-worklet.js", import.meta.url));
      const node = new AudioWorkletNode(this.context, "echox-playback", { numberOfInputs: 0, outputChannelCount: [1] });
      node.port.onmessage = ({ data }) => this.#heard(data);
      node.connect(this.analyser);
      this.#command = (message) => node.port.postMessage(message);
    } else {
      this.#withoutWorklet();
    }
    this.early.splice(0).forEach((message) => this.#command(message));
  }

  /** Without AudioWorklet (pages over plain HTTP), run the same buffer in this thread. */
  #withoutWorklet() {
    const buffer = new JitterBuffer(this.context.sampleRate, (event) => this.#heard(event));
    const node = this.context.createScriptProcessor(FALLBACK_FRAMES, 0, 1);
    node.onaudioprocess = ({ outputBuffer }) => {
      buffer.pull(outputBuffer.getChannelData(0));
      const [item] = buffer.items;
      if (item) this.#heard({ type: "progress", item: item.id, played: item.played, buffered: buffer.buffered });
    };
    node.connect(this.analyser);
    this.#command = ({ type, item, samples, level }) => {
      if (type === "push") buffer.push(item, samples);
      else if (type === "end") buffer.end(item);
      else if (type === "duck") buffer.level = level;
      else this.#heard({ type: "flushed", dropped: buffer.flush() });
    };
  }

  #command = () => {};

  /** Seconds from the buffer to the loudspeaker. */
  get latencyS() {
    return (this.context?.outputLatency || 0) + (this.context?.baseLatency || 0);
  }

  /** Convert frames that the buffer has played to seconds that were heard. */
  #heardS(frames) {
    return Math.max(0, frames / this.context.sampleRate - this.latencyS);
  }

  /**
   * Play the voice of a call instead of an earlier call's. It holds silence and replies; `voice` says which.
   * @param {MediaStream} stream @throws {DOMException} the browser cannot.
   */
  async listen(stream) {
    const mine = (this.listening = Symbol("call"));
    await this.open();
    const capture = await captureNode(this.context, ({ pcm }) => this.#live(pcm));
    if (mine !== this.listening) return capture.disconnect(); // the next call has begun
    this.leave();
    const muted = Object.assign(new Audio(), { srcObject: stream, muted: true }); // without it Chromium gives the context no sound
    muted.play().catch(() => {});
    const source = this.context.createMediaStreamSource(stream);
    this.live = new GainNode(this.context, { gain: 1 });
    source.connect(this.live).connect(this.analyser);
    source.connect(capture);
    const nodes = [source, capture, this.live];
    this.leave = () => {
      nodes.forEach((node) => node.disconnect());
      muted.srcObject = null;
      this.leave = () => {};
    };
  }

  #live(pcm) {
    if (!this.voiced) return;
    const { item } = this.voiced;
    this.voiced.frames += pcm.length;
    this.now = { item, playedS: this.voiced.frames / RATE, bufferedS: 0 };
    this.dispatchEvent(new CustomEvent("voice", { detail: { item, pcm } }));
    this.dispatchEvent(new CustomEvent("progress", { detail: { item, playedS: this.now.playedS } }));
  }

  /** The call voices an item from now on; null: it is silent. @returns {{item: string, heardS: number} | null} what it voiced. */
  voice(item) {
    const before = this.voiced;
    this.voiced = item && { item, frames: 0 };
    this.now = item ? { item, playedS: 0, bufferedS: 0 } : null;
    this.duck(false);
    if (item) this.dispatchEvent(new CustomEvent("started", { detail: { item, playedS: 0 } }));
    return before ? { item: before.item, heardS: before.frames / RATE } : null;
  }

  push(item, pcm) {
    if (!this.context) return; // there is no sound
    if (!this.items.has(item)) this.items.set(item, new Resampler(RATE, this.context.sampleRate));
    this.#command({ type: "push", item, samples: this.items.get(item).push(Float32Array.from(pcm, (x) => x / 32768)) });
  }

  end(item) {
    if (!this.context) return this.dispatchEvent(new CustomEvent("ended", { detail: { item, playedS: 0 } })); // nothing is heard of it
    const resampler = this.items.get(item);
    if (resampler) this.#command({ type: "push", item, samples: resampler.end() });
    if (resampler) this.items.set(item, null); // it may be said twice
    this.#command({ type: "end", item });
  }

  /** Lower the volume while it is unclear whether the user interrupts. */
  duck(on) {
    this.#command({ type: "duck", level: on ? 0.25 : 1 });
    this.live?.gain.setTargetAtTime(on ? 0.25 : 1, this.live.context.currentTime, 0.02);
  }

  /** Stop at once. @returns {Promise<{item: string, heardS: number}[]>} how much of each unfinished reply was heard. */
  flush() {
    this.duck(false);
    if (!this.items.size) return Promise.resolve([]);
    const { now } = this;
    const known = [...this.items.keys()].map((item) => ({ item, heardS: now?.item === item ? now.playedS : 0 }));
    this.items.clear();
    return new Promise((resolve) => {
      this.flushes.push(resolve);
      this.#command({ type: "flush" });
      setTimeout(() => {
        if (this.now === now) this.now = null;
        resolve(known);
      }, FLUSH_MS);
    });
  }

  /** Three short tones, over whatever is being played. */
  ring() {
    if (!this.output) return;
    for (let n = 0; n < RING_TONES; n++) {
      const at = this.context.currentTime + n * 2 * RING_S;
      const tone = new OscillatorNode(this.context, { frequency: RING_HZ });
      const edge = new GainNode(this.context, { gain: 0 });
      edge.gain.setValueCurveAtTime([0, 0.25, 0.25, 0.25, 0], at, RING_S); // soft, without a click
      tone.connect(edge).connect(this.output);
      tone.start(at);
      tone.stop(at + RING_S);
    }
  }

  setVolume(volume) {
    this.volume = volume;
    if (this.output) this.output.gain.setTargetAtTime(volume, this.context.currentTime, 0.02);
  }

  #heard(event) {
    if (event.type === "flushed") {
      this.now = null;
      this.flushes.shift()?.(event.dropped.map(({ item, played }) => ({ item, heardS: this.#heardS(played) })));
      return;
    }
    if (event.type === "underrun") this.underruns += 1;
    const rate = this.context.sampleRate;
    const playedS = event.type === "ended" ? event.played / rate : this.#heardS(event.played);
    this.now = event.type === "ended" ? null : { item: event.item, playedS, bufferedS: event.buffered / rate };
    if (event.type === "ended") this.items.delete(event.item);
    this.dispatchEvent(new CustomEvent(event.type, { detail: { item: event.item, playedS } }));
  }
}

/** Decode any audio format of the browser to mono 24 kHz PCM16. @throws {DOMException} it is not audio. */
export async function decodeFile(file) {
  const decoded = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(await file.arrayBuffer());
  const channels = Array.from({ length: decoded.numberOfChannels }, (_, c) => decoded.getChannelData(c));
  const mono = Float32Array.from(channels[0], (_, i) => channels.reduce((sum, c) => sum + c[i], 0) / channels.length);
  return Int16Array.from(mono, (x) => Math.max(-32768, Math.min(32767, Math.round(x * 32768))));
}

/** Join pieces of PCM16. */
export function concatenate(pieces) {
  const joined = new Int16Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let done = 0;
  for (const piece of pieces) {
    joined.set(piece, done);
    done += piece.length;
  }
  return joined;
}

/** A mono 16-bit WAV file. */
export function wavFile(pcm) {
  const header = new DataView(new ArrayBuffer(44));
  const text = (at, word) => [...word].forEach((letter, i) => header.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF");
  header.setUint32(4, 36 + pcm.byteLength, true);
  text(8, "WAVEfmt ");
  header.setUint32(16, 16, true);
  header.setUint16(20, 1, true); // PCM
  header.setUint16(22, 1, true); // channels
  header.setUint32(24, RATE, true);
  header.setUint32(28, RATE * 2, true);
  header.setUint16(32, 2, true);
  header.setUint16(34, 16, true);
  text(36, "data");
  header.setUint32(40, pcm.byteLength, true);
  return new Blob([header, pcm], { type: "audio/wav" });
}

/** Convert PCM16 (little-endian on all machines of browsers) to base64. */
export function toBase64(pcm) {
  const bytes = new Uint8Array(pcm.buffer, pcm.byteOffset, pcm.byteLength);
  let text = "";
  for (let i = 0; i < bytes.length; i += 0x8000) text += String.fromCharCode(...bytes.subarray(i, i + 0x8000));
  return btoa(text);
}

/** Convert base64 to PCM16. */
export function fromBase64(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Int16Array(bytes.buffer, 0, bytes.length >> 1);
}
