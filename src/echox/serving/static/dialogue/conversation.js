/** The conversation as data: turns with their text, audio and measurements. The view draws it, the page saves it. */
import { RATE, concatenate, wavFile } from "../sound/audio.js";

const GAP_S = 0.4; // of silence between turns in the saved recording
const LETTERS_PER_S = 15; // of speech in a call, whose text comes long before its sound

/** An id for an item of the protocol. */
export const newId = () => `item_${crypto.getRandomValues(new Uint32Array(3)).join("")}`.slice(0, 32);

/** One turn of either side. */
export class Turn {
  /** @param {string} id of the protocol's item. @param {"user" | "assistant"} role @param {"voice" | "text" | "file"} source: a written reply is "text" */
  constructor(id, role, source) {
    this.id = id;
    this.role = role;
    this.source = source;
    this.session = null; // id of the session whose server made this reply, and can cut it
    this.text = "";
    this.kept = null; // of a reply that was cut: the part of its text that the model keeps
    this.audio = []; // pieces of PCM16, in the order of arrival
    this.frames = 0;
    this.state = "open"; // open (still growing), done, interrupted, failed
    this.note = ""; // why it failed
    this.stops = false; // it was understood as "stop", and is not answered
    this.forgotten = false; // it began to answer a question that went on: the model reads it no more
    this.playedS = 0;
    this.figures = {}; // firstAudioS, rtf, underruns
    this.called = false; // its speech comes by a call, in real time
    this.spans = []; // when each part of the text is spoken: {letters, frames, lettersEnd, framesEnd}
  }

  get durationS() {
    return this.frames / RATE;
  }

  /** Add text; in a reply it arrives shortly before its speech. */
  addText(delta) {
    const span = this.spans.at(-1);
    if (!span || span.framesEnd > span.frames) {
      const letters = this.text.length;
      this.spans.push({ letters, frames: this.frames, lettersEnd: letters, framesEnd: this.frames });
    }
    this.text += delta;
    this.spans.at(-1).lettersEnd = this.text.length;
  }

  addAudio(pcm) {
    this.audio.push(pcm);
    this.frames += pcm.length;
    const span = this.spans.at(-1);
    if (span) span.framesEnd = this.frames;
  }

  /** Number of letters that are spoken already: captions follow the voice, word by word. */
  get spokenLetters() {
    if (this.state === "done" && this.playedS >= this.durationS - 0.05) return this.text.length;
    const { letter, begun } = this.#place();
    const end = this.text.indexOf(" ", letter);
    return !begun ? letter : end < 0 ? this.text.length : end;
  }

  /** The part of the text that was heard: whole words only, as servers count it. */
  get heardText() {
    return this.source === "text" ? this.text : this.#words(this.#place().letter);
  }

  /** The part of the text whose speech has come. */
  get voicedText() {
    const last = this.spans.findLast(({ frames, framesEnd }) => framesEnd > frames);
    return this.source === "text" ? this.text : this.#words(last?.lettersEnd ?? 0);
  }

  /** The letter that the voice has reached, and whether it is past the first one of what it is saying. */
  #place() {
    const played = this.playedS * RATE;
    if (this.called) return { letter: Math.round(this.playedS * LETTERS_PER_S), begun: played > 0 };
    const span = this.spans.findLast(({ frames }) => frames <= played);
    if (!span || played <= 0) return { letter: 0, begun: false };
    const part = Math.min(1, (played - span.frames) / Math.max(1, span.framesEnd - span.frames));
    const letter = span.letters + Math.round(part * (span.lettersEnd - span.letters));
    return { letter, begun: letter > span.letters };
  }

  /** The whole words among the first letters of the text. */
  #words(letters) {
    if (letters >= this.text.length) return this.text;
    return this.text.slice(0, Math.max(0, this.text.lastIndexOf(" ", letters))).trimEnd();
  }

  /** All audio, or the part that was heard before an interruption. */
  get heardAudio() {
    const all = concatenate(this.audio);
    return this.state === "interrupted" ? all.subarray(0, Math.round(this.playedS * RATE)) : all;
  }

  /** The turn as items of the protocol; none if there is nothing to read in it, or it never came to a server. */
  get items() {
    const text = this.kept ?? this.text;
    const user = this.role === "user";
    if (!text.trim() || this.stops || this.forgotten || (user && this.state === "failed")) return [];
    return [{ id: this.id, type: "message", role: this.role, content: [{ type: user ? "input_text" : "output_text", text }] }];
  }

  /** What of it is saved, besides its audio. */
  get saved() {
    return {
      source: this.source,
      text: this.kept ?? this.text,
      ...(this.kept !== null && { not_heard: this.text.slice(this.kept.length).trim() }),
    };
  }
}

/** A call of a tool, between the turns. */
export class Call extends Turn {
  /** @param {{id: string, call_id: string, name: string}} item of the protocol. */
  constructor({ id, call_id: callId, name }) {
    super(id, "tool", "call");
    this.callId = callId;
    this.name = name;
    this.arguments = ""; // JSON, as it is written
    this.output = null; // JSON, once it is there
    // Its state: open (being written), running, done, failed, interrupted.
  }

  get outputItem() {
    return { type: "function_call_output", call_id: this.callId, output: this.output };
  }

  get items() {
    if (this.output === null) return [];
    return [{ id: this.id, type: "function_call", call_id: this.callId, name: this.name, arguments: this.arguments }, this.outputItem];
  }

  get saved() {
    return { name: this.name, arguments: this.arguments, output: this.output };
  }
}

export class Conversation {
  constructor() {
    this.turns = [];
    this.startedAt = new Date();
  }

  find(id) {
    return this.turns.find((turn) => turn.id === id);
  }

  /** @returns {Turn} */
  add(id, role, source) {
    return this.#add(new Turn(id, role, source));
  }

  /** @returns {Call} */
  addCall(item) {
    return this.#add(new Call(item));
  }

  #add(turn) {
    this.turns.push(turn);
    return turn;
  }

  remove(id) {
    this.turns = this.turns.filter((turn) => turn.id !== id);
  }

  /** The turns as items of the protocol, so that a new session can continue the conversation. */
  asItems() {
    return this.turns.flatMap(({ items }) => items);
  }

  /** All audio as one WAV, and the conversation as JSON with the place of each turn in the audio. */
  save(model) {
    const gap = new Int16Array(GAP_S * RATE);
    const pieces = [];
    let frames = 0;
    const turns = this.turns.map((turn) => {
      const sound = turn.heardAudio;
      const start = frames;
      if (sound.length) {
        pieces.push(sound, gap);
        frames += sound.length + gap.length;
      }
      return {
        role: turn.role,
        ...turn.saved,
        state: turn.state,
        ...(sound.length && { audio: { start_s: start / RATE, end_s: (start + sound.length) / RATE } }),
        ...(turn.figures.firstAudioS !== undefined && { first_audio_s: turn.figures.firstAudioS }),
        ...(turn.figures.rtf !== undefined && { rtf: turn.figures.rtf }),
      };
    });
    const data = { model, started_at: this.startedAt.toISOString(), sampling_rate: RATE, turns };
    return {
      json: new Blob([JSON.stringify(data, null, 2)], { type: "application/json" }),
      wav: wavFile(concatenate(pieces)),
    };
  }
}
