/** The running dialogue: events of the server become turns and sound, actions of the user become events. */
import { Conversation, newId } from "./conversation.js";
import { Given, cutAtServer } from "./given.js";
import { Recording } from "./recording.js";
import { RATE, fromBase64, toBase64 } from "../sound/audio.js";
import { SentAudio } from "../sound/sent-audio.js";
import { Refused } from "../connection/realtime.js";
import { failure, isUnheard, refusal } from "../connection/reasons.js";
import { ToolCalls } from "../tools/tool-calls.js";

const ON_THE_WAY_MS = 300; // sound of a call comes so much later than events
const NOISE_MS = 1500; // speech that has become no turn by then was noise
const FULL = "input_audio_buffer_full";
const ANSWERED = "conversation_already_has_active_response"; // a spoken turn has come first
const isDone = ({ type }) => type === "response.done";

/**
 * Events: `turn` (detail: a Turn that changed), `removed` (detail: its id), `said` (detail: a Turn that is complete),
 * `problem` (detail: {title, text, unheard}), `full` (the recording is as long as a turn may be), `change` (anything else).
 */
export class Dialogue extends EventTarget {
  /**
   * @param {import("../connection/realtime.js").Connection} connection
   * @param {import("../sound/audio.js").Player} player
   * @param {import("../settings.js").Settings} settings
   * @param {import("../tools/tools.js").Toolbox} toolbox
   */
  constructor(connection, player, settings, toolbox) {
    super();
    Object.assign(this, { connection, player, settings, toolbox, conversation: new Conversation() });
    this.calls = new ToolCalls(connection, toolbox, {
      add: (item) => this.#show(this.conversation.addCall(item)),
      changed: (call) => this.#callChanged(call),
      ask: (response) => this.#goOn(response),
    });
    this.response = null; // {id, turn, createdAt}: the response that the server is making
    this.requested = false; // a reply is requested and has not started
    this.asked = null; // {id, answered, unwanted}: what this page has asked for, until the server begins it
    this.userSpeaking = false;
    this.guessing = false; // a reply is being made in a pause, before the turn is over
    this.stoppedByWord = false; // what was said last was understood as "stop"
    this.recording = null; // while the button is held
    this.roundTripMs = null;
    this.stopped = new Set(); // items whose further audio is ignored
    this.voices = new Map(); // response -> its turn, which a call will voice
    this.session = null; // id of the session; null: there is none
    this.sent = new SentAudio(); // of this session
    this.given = null; // what this session was given of an older one
    connection.addEventListener("open", ({ detail }) => this.#opened(detail));
    connection.addEventListener("server", ({ detail }) => this.#on[detail.type]?.(detail));
    connection.addEventListener("state", ({ detail }) => detail.state !== "open" && this.#lost());
    player.addEventListener("started", ({ detail }) => this.#started(detail));
    player.addEventListener("progress", ({ detail }) => this.#played(detail));
    player.addEventListener("ended", ({ detail }) => this.#played(detail, true));
    player.addEventListener("underrun", () => this.#emit("change"));
    player.addEventListener("voice", ({ detail: { item, pcm } }) => this.conversation.find(item)?.addAudio(pcm));
  }

  get speaking() {
    return this.player.now !== null;
  }

  get thinking() {
    return this.requested || this.response !== null || this.calls.busy;
  }

  // ------------------------------------------------------------------------------------------ actions of the user

  /** @throws {Error} no connection. @throws {Refused} */
  async type(text) {
    await this.#ask("text", text, [{ type: "input_text", text }]);
  }

  /** Send a recording as a turn. @param {Int16Array} pcm @param {"file" | "voice"} source */
  async play(pcm, source = "file") {
    const turn = await this.#ask(source, "", [{ type: "input_audio", audio: toBase64(pcm) }], pcm);
    return turn;
  }

  async #ask(source, text, content, pcm = null) {
    await this.connection.ready();
    await this.interrupt();
    const turn = this.conversation.add(newId(), "user", source);
    turn.text = text;
    turn.state = "done";
    if (pcm) turn.addAudio(pcm);
    this.#emit("turn", turn);
    if (text) this.#emit("said", turn);
    this.settings.flush();
    const item = { id: turn.id, type: "message", role: "user", content };
    try {
      await this.connection.ask(
        { type: "conversation.item.create", item },
        ({ type, item: added }) => /^conversation\.item\.(added|created)$/.test(type) && added.id === turn.id,
      );
    } catch (error) {
      turn.state = "failed";
      turn.note = error.message;
      this.#emit("turn", turn);
      throw error;
    }
    this.#askForReply();
    return turn;
  }

  #askForReply() {
    this.turnEndedAt = performance.now();
    this.#request({});
  }

  /** Ask for the reply to the output of tools, unless a turn of the user is answered first. */
  #goOn(response) {
    if (!this.requested && !this.userSpeaking) this.#request(response, ANSWERED);
  }

  #request(response, tolerated) {
    const asked = { id: newId(), answered: null, unwanted: false };
    const isBegun = ({ type, response: begun }) => type === "response.created" && begun.metadata?.asked === asked.id;
    this.requested = true;
    this.asked = asked;
    const event = { type: "response.create", response: { ...response, metadata: { asked: asked.id } } };
    asked.answered = this.connection.ask(event, isBegun).catch((error) => {
      if (this.asked !== asked) return;
      this.asked = null;
      this.requested = false;
      if (error instanceof Refused && error.code !== tolerated) this.#emit("problem", { title: "There was no reply", text: error.message });
      this.#emit("change");
    });
    this.#emit("change");
  }

  /** The user does something else: nothing more of the reply, nor one that is asked for and has not begun, is wanted. */
  #unwant() {
    if (this.asked) this.asked.unwanted = true;
    if (this.response) this.response.unwanted = true;
    this.calls.stop(this.response?.id);
  }

  /** The turn of a reply that was unwanted before it began, once it is over. */
  async #late(asked) {
    await asked?.answered;
    const { response } = this;
    if (asked && response?.unwanted) await this.connection.next(isDone).catch(() => {});
    return asked && response?.unwanted ? response.turn : null;
  }

  #cancel() {
    const { id } = this.response;
    const isCancelled = ({ response, ...event }) => isDone(event) && response.id === id && response.status === "cancelled";
    this.connection.ask({ type: "response.cancel", response_id: id }, isCancelled).catch(() => {}); // refused: it was over already
  }

  #callChanged(call) {
    this.#show(call);
    if (call.output !== null) this.#emit("said", call);
    this.#emit("change");
  }

  /** One chunk of the microphone; `first`: it was off before. */
  hear(pcm, first = false) {
    if (this.recording?.add(pcm) === false) this.#emit("full");
    const listens = this.recording || this.settings.handsFree;
    if (first || !listens) this.sent.pause();
    if (!listens) return;
    const { call, state } = this.connection; // a call takes the sound itself
    if (call ? state !== "open" : !this.connection.send({ type: "input_audio_buffer.append", audio: toBase64(pcm) })) return;
    this.sent.add(pcm);
  }

  /** Send silence after the microphone is switched off, so that the server ends the turn. */
  sendSilence() {
    if (this.settings.handsFree && !this.connection.call) this.hear(new Int16Array(((this.settings.silenceMs + 300) / 1000) * RATE));
  }

  /** The button was pressed. */
  async press() {
    this.recording = new Recording(this.session);
    this.connection.send({ type: "input_audio_buffer.clear" });
    await this.interrupt();
  }

  /** The button was released. @returns {Promise<boolean>} there was something to send. */
  async release() {
    const { recording } = this;
    this.recording = null;
    if (recording?.enough) this.settings.flush();
    if (recording?.enough && (await this.#commit(recording))) return true;
    this.connection.send({ type: "input_audio_buffer.clear" }); // too little, or its rest after a broken connection
    if (!recording?.enough) return false;
    await this.play(recording.pcm, "voice");
    return true;
  }

  /** Make a turn of what the server was sent of a recording. @returns {Promise<boolean>} false: it was not sent all of it. */
  async #commit({ pieces, session }) {
    if (this.connection.call) await new Promise((done) => setTimeout(done, ON_THE_WAY_MS));
    const isCommitted = ({ type }) => type === "input_audio_buffer.committed";
    try {
      if (session !== this.session) return false;
      const { item_id: id } = await this.connection.ask({ type: "input_audio_buffer.commit" }, isCommitted);
      const turn = this.#userTurn(id);
      turn.state = "done";
      pieces.forEach((piece) => turn.addAudio(piece));
      this.#emit("turn", turn);
    } catch (error) {
      if (session === this.session) throw error;
      return false;
    }
    this.#askForReply();
    return true;
  }

  /** Stop the reply, here and at the server, which keeps only what was heard. */
  async interrupt() {
    const { asked } = this;
    this.stoppedByWord = false;
    this.#unwant();
    if (this.response?.turn) this.stopped.add(this.response.turn.id);
    if (this.response) this.#cancel();
    if (this.connection.call && this.player.voiced) this.connection.send({ type: "output_audio_buffer.clear" });
    const { response: stopped } = this;
    const cut = await this.#silence();
    if (stopped && stopped === this.response) await this.connection.next(isDone).catch(() => {}); // a lost connection is reported elsewhere
    const turns = new Set([...cut, stopped?.turn, await this.#late(asked)].filter(Boolean));
    await this.#cut(turns);
  }

  /** Stop the sound. @returns {Promise<import("./conversation.js").Turn[]>} replies that were cut. */
  async #silence() {
    const dropped = await this.player.flush();
    const voiced = this.player.voice(null);
    if (voiced) dropped.push(voiced);
    const cut = [];
    for (const { item, heardS } of dropped) {
      const turn = this.conversation.find(item);
      if (!turn) continue; // an old turn that is being replayed
      this.stopped.add(item);
      turn.playedS = Math.min(heardS, turn.durationS);
      turn.state = "interrupted";
      cut.push(turn);
      this.#emit("turn", turn);
    }
    this.#emit("change");
    return cut;
  }

  /** Cut replies to what was heard of them, here and at the server. */
  #cut(turns) {
    return Promise.all([...turns].map((turn) => this.#truncate(turn)));
  }

  async #truncate(turn) {
    if (this.response?.turn === turn) await this.connection.next(isDone).catch(() => {});
    turn.state = "interrupted";
    const { session } = turn;
    const kept = session === this.session ? await cutAtServer(this.connection, turn, this.stopped.has(turn.id)) : null;
    const answered = kept !== null && session === this.session; // else another one has, which has not made it
    turn.kept = answered ? kept : turn.heardText;
    if (!answered) this.given?.replace(turn);
    this.#emit("turn", turn);
  }

  /** Settings changed. */
  configure() {
    if (!this.settings.handsFree) this.userSpeaking = false; // from now on the button marks turns
    const asked = performance.now();
    const isUpdated = ({ type }) => type === "session.updated";
    const session = { ...this.settings.session(), ...(this.settings.offersTools && { tools: this.settings.tools ? this.toolbox.declared : [] }) };
    return this.connection.ask({ type: "session.update", session }, isUpdated).then(
      ({ session: { tools_supported: supported } }) => {
        this.roundTripMs = performance.now() - asked;
        if (supported === false) this.settings.offerTools(false); // another model answers now
        this.#emit("change");
      },
      (error) => error instanceof Refused && this.#emit("problem", { title: "A setting was refused", text: error.message }),
    );
  }

  /** End the session; the next turn opens another, with a new conversation or this one. */
  async restart(conversation = new Conversation()) {
    this.calls.lose();
    this.connection.close();
    await this.#cut(await this.#silence());
    this.conversation = conversation;
  }

  // ------------------------------------------------------------------------------------------ events of the server

  #opened(session) {
    this.session = session.id;
    this.settings.show(session);
    this.sent = new SentAudio(Boolean(this.connection.call));
    this.configure();
    this.given = new Given(this.connection, this.conversation);
  }

  /** End what the session would have gone on with. A reply that is here already is played to its end. */
  #lost() {
    this.session = null;
    this.calls.lose();
    if (this.player.voiced) this.player.voice(null);
    this.player.duck(false);
    const goesOn = ({ state, role, called, id }) => state === "open" && (role === "user" || called || id === this.response?.turn?.id);
    for (const turn of this.conversation.turns.filter(goesOn)) this.#breakOff(turn);
    this.response = null;
    this.requested = this.userSpeaking = this.guessing = false;
    this.#emit("change");
  }

  /** The rest of a turn is lost. */
  #breakOff(turn) {
    if (turn.role === "user" && !turn.text) return this.#remove(turn);
    turn.note = "The connection broke here.";
    if (turn.role === "assistant") turn.kept = turn.called ? turn.heardText : turn.voicedText;
    if (turn.role === "assistant" && turn.frames && !turn.called) this.player.end(turn.id); // and it is done
    else turn.state = turn.role === "user" ? "failed" : "interrupted";
    this.#emit("turn", turn);
  }

  #on = {
    "input_audio_buffer.speech_started": async ({ item_id: id, audio_start_ms: startMs, continues }) => {
      this.userSpeaking = true;
      this.stoppedByWord = false;
      const { asked } = this;
      const begun = this.response?.turn;
      this.#unwant();
      this.settings.flush();
      this.startMs = startMs ?? 0;
      this.#userTurn(id);
      this.#emit("change");
      const cut = await this.#silence();
      if (continues) for (const turn of [begun, ...cut]) if (turn) turn.forgotten = true;
      const turns = [...cut, await this.#late(asked)].filter(Boolean);
      await this.#cut(turns);
    },
    "input_audio_buffer.speech_stopped": ({ item_id: id, audio_end_ms: endMs, voice_end_ms: voiceEndMs }) => {
      this.userSpeaking = false;
      this.turnEndedAt = this.sent.sentAt(voiceEndMs);
      const turn = this.conversation.find(id);
      turn?.addAudio(this.sent.between(this.startMs, endMs));
      setTimeout(() => turn?.state === "open" && !turn.text && this.#remove(turn), NOISE_MS);
      this.#emit("change");
    },
    "input_audio_buffer.committed": ({ item_id: id, interjection }) => {
      this.guessing = false;
      const turn = this.#userTurn(id);
      turn.state = "done";
      turn.stops = this.stoppedByWord = interjection === "stop";
      this.requested = this.settings.handsFree && !turn.stops;
      this.#emit("turn", turn);
      this.#emit("change");
    },
    "echox.speculation.begun": () => this.#guess(true),
    "echox.speculation.discarded": () => this.#guess(false),
    "echox.output_audio.duck": () => this.player.duck(true),
    "echox.output_audio.unduck": () => this.player.duck(false),
    "conversation.item.input_audio_transcription.delta": ({ item_id: id, delta }) => {
      const turn = this.conversation.find(id);
      if (!turn) return;
      turn.text += delta;
      this.#emit("turn", turn);
    },
    "conversation.item.input_audio_transcription.completed": ({ item_id: id, transcript }) => {
      const turn = this.conversation.find(id);
      if (!turn) return;
      turn.text = transcript.trim();
      this.#emit("turn", turn);
      this.#emit("said", turn);
    },
    "response.created": ({ response }) => {
      const asked = this.asked?.id === response.metadata?.asked ? this.asked : null;
      this.requested = false;
      if (asked) this.asked = null;
      this.response = { id: response.id, turn: null, createdAt: performance.now(), unwanted: false };
      if (asked?.unwanted) {
        this.#unwant();
        this.#cancel();
        if (this.connection.call) this.connection.send({ type: "output_audio_buffer.clear" });
      }
      this.#emit("change");
    },
    "response.output_item.added": (event) => {
      const { item } = event;
      if (item.type === "function_call") this.calls.begin(event);
      if (!this.response || item.role !== "assistant") return;
      this.response.turn = this.conversation.add(item.id, "assistant", "voice");
      Object.assign(this.response.turn, { session: this.session, called: Boolean(this.connection.call) });
      if (this.response.unwanted) this.stopped.add(item.id);
      this.voices.set(this.response.id, this.response.turn);
      this.#emit("turn", this.response.turn);
    },
    "response.function_call_arguments.delta": (event) => this.calls.write(event),
    "response.function_call_arguments.done": (event) => this.calls.run(event),
    "response.output_audio_transcript.delta": (event) => this.#write(event),
    "response.output_text.delta": (event) => this.#write(event, "text"),
    "response.output_audio.delta": ({ item_id: id, delta }) => {
      const turn = this.conversation.find(id);
      if (!turn || this.stopped.has(id)) return;
      const pcm = fromBase64(delta);
      turn.addAudio(pcm);
      this.player.push(id, pcm);
      turn.figures.rtf = (performance.now() - this.response.createdAt) / 1000 / turn.durationS;
      this.#emit("turn", turn);
    },
    "response.output_audio.done": ({ item_id: id }) => this.connection.call || this.player.end(id),
    "output_audio_buffer.started": ({ response_id: id }) => this.voices.has(id) && this.player.voice(this.voices.get(id).id),
    "output_audio_buffer.stopped": () => {
      const voiced = this.player.voice(null);
      if (voiced) this.#played({ item: voiced.item, playedS: Infinity }, true);
    },
    "output_audio_buffer.cleared": async () => this.#cut(await this.#silence()),
    "response.done": ({ response }) => this.#done(response),
    error: ({ error, expected }) => {
      if (error.code === FULL) return this.recording && this.#emit("full"); // of each piece; it is said once
      if (!expected) this.#emit("problem", { title: "The server could not do that", text: refusal(error) });
    },
  };

  #guess(on) {
    this.guessing = on;
    this.#emit("change");
  }

  #write({ item_id: id, delta }, source = "voice") {
    const turn = this.conversation.find(id);
    if (!turn || this.stopped.has(id)) return;
    turn.source = source;
    turn.addText(delta);
    this.#emit("turn", turn);
  }

  #done({ id, status, status_details: details }) {
    if (this.response?.id !== id) return;
    const { turn } = this.response;
    this.response = null;
    this.requested = false;
    this.calls.end({ id, status });
    if (turn) {
      if (!turn.called) this.player.end(turn.id);
      if (status === "failed") {
        turn.state = "failed";
        turn.note = failure(details?.error ?? {});
      } else if (turn.state === "open" && (status === "cancelled" || !(turn.frames || (turn.called && this.settings.speak)))) {
        turn.state = status === "cancelled" ? "interrupted" : "done";
        if (details?.reason === "turn_detected") this.#truncate(turn); // interrupted before its first sound
      }
      if (status === "incomplete") turn.note = "The reply was cut at its greatest length.";
      this.#emit("turn", turn);
      this.#emit("said", turn);
    } else if (status === "failed") {
      const error = details?.error ?? {};
      const asked = this.conversation.turns.findLast(({ role }) => role === "user");
      this.#emit("problem", { title: "There was no reply", text: failure(error), unheard: isUnheard(error) && asked?.source === "voice" });
    }
    this.#emit("change");
  }

  // ------------------------------------------------------------------------------------------ playback

  #started({ item }) {
    const turn = this.conversation.find(item);
    if (turn && this.turnEndedAt !== undefined) {
      turn.figures.firstAudioS = (performance.now() - this.turnEndedAt) / 1000 + this.player.latencyS;
      this.turnEndedAt = undefined;
    }
    this.#emit("change");
  }

  #played({ item, playedS }, ended = false) {
    const turn = this.conversation.find(item);
    if (turn && turn.state !== "interrupted") {
      turn.playedS = Math.min(playedS, turn.durationS);
      if (ended && turn.state === "open") turn.state = "done";
      this.#emit("turn", turn);
    }
    if (ended) this.#emit("change");
  }

  // ------------------------------------------------------------------------------------------ helpers

  #userTurn(id) {
    return this.#show(this.conversation.find(id) ?? this.conversation.add(id, "user", "voice"));
  }

  #show(turn) {
    this.#emit("turn", turn);
    return turn;
  }

  #remove(turn) {
    this.conversation.remove(turn.id);
    this.#emit("removed", turn.id);
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
