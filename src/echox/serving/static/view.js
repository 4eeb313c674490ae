/** Draws the page: turns with captions that follow the voice, notices, measurements, the voice line. */
const NAMES = { user: "You", assistant: "EchoX", tool: "Tool" };
const byId = (id) => document.getElementById(id);
const seconds = (s) => `${s.toFixed(s < 10 ? 2 : 1)} s`;

function element(name, attributes = {}, ...children) {
  const made = Object.assign(document.createElement(name), attributes);
  made.append(...children);
  return made;
}

export class View {
  /** @param {(turn: object) => void} replay plays an old turn again. */
  constructor(replay) {
    this.replay = replay;
    this.rows = new Map();
    this.stage = byId("stage");
    this.canvas = byId("voice");
    new ResizeObserver(() => this.following && this.#toEnd()).observe(this.stage);
    this.stage.addEventListener("scroll", () => (this.following = this.#atEnd()));
    this.following = true; // the newest turn, unless the user has scrolled back
    this.still = matchMedia("(prefers-reduced-motion: reduce)");
    this.level = 0;
  }

  // ------------------------------------------------------------------------------------------ turns

  /** Draw a turn, each time it changes. */
  turn(turn) {
    byId("welcome").hidden = true;
    let row = this.rows.get(turn.id);
    if (!row) {
      row = element("li", { className: `turn ${turn.role}` }, element("h2", { textContent: NAMES[turn.role] }));
      row.append(element("p", { className: turn.role === "tool" ? "call" : "said" }), element("p", { className: "meta" }));
      row.dataset.item = turn.id;
      byId("turns").append(row);
      this.rows.set(turn.id, row);
    }
    row.dataset.state = turn.state;
    row.querySelector("p").replaceChildren(...(turn.role === "tool" ? this.#call(turn) : this.#said(turn)));
    this.#meta(row.querySelector(".meta"), turn);
    byId("download").hidden = false;
    if (this.following) this.#toEnd();
  }

  #atEnd() {
    return this.stage.scrollHeight - this.stage.scrollTop - this.stage.clientHeight < 80;
  }

  #toEnd() {
    if (this.rows.size) this.stage.scrollTop = this.stage.scrollHeight;
  }

  #said(turn) {
    if (!turn.text) {
      const waiting = { user: turn.state === "open" ? "listening" : "(nothing was understood)", assistant: "…" };
      return turn.state === "failed" ? [] : [element("span", { className: "waiting", textContent: waiting[turn.role] })];
    }
    const kept = turn.kept ?? turn.text;
    const lost = turn.text.slice(kept.length).trim();
    const follows = turn.role === "assistant" && turn.frames && turn.state === "open"; // the voice
    const spoken = follows ? turn.spokenLetters : kept.length;
    return [
      kept.slice(0, spoken),
      element("span", { className: "coming", textContent: kept.slice(spoken) }),
      ...(lost ? [" ", element("del", { textContent: lost })] : []),
    ];
  }

  /** A call as it is written, and its output. */
  #call({ name, arguments: given, output, state }) {
    const shown = [element("code", { className: "name", textContent: name }), " ", element("code", { textContent: given })];
    if (state === "running") shown.push(element("span", { className: "output waiting", textContent: "running…" }));
    if (output === null) return shown;
    const { error } = JSON.parse(output);
    const found = error ? element("span", { className: "problem", textContent: error }) : element("code", { textContent: output });
    return [...shown, element("span", { className: "output" }, "→ ", found)];
  }

  #meta(line, turn) {
    const { firstAudioS, rtf } = turn.figures;
    const facts = [
      turn.source === "file" && turn.role === "user" && `file, ${seconds(turn.durationS)}`,
      turn.role === "assistant" && turn.frames > 0 && `${turn.playedS.toFixed(1)} of ${turn.durationS.toFixed(1)} s`,
      turn.state === "interrupted" && "interrupted",
      turn.stops && "understood as “stop”",
    ].filter(Boolean);
    const figures = [
      firstAudioS !== undefined && `first audio ${seconds(firstAudioS)}`,
      rtf !== undefined && `rtf ${rtf.toFixed(2)}`,
    ].filter(Boolean);
    const key = `${[...facts, ...figures].join("|")}|${turn.state}|${turn.note}`;
    if (line.dataset.key === key) return; // keep the focus of a button that has not changed
    line.dataset.key = key;
    line.replaceChildren(
      ...facts.map((fact) => element("span", { textContent: fact })),
      ...figures.map((figure) => element("span", { className: "figure", textContent: figure })),
    );
    if (turn.note) line.append(element("span", { className: "problem", textContent: turn.note }));
    if (turn.role === "assistant" && turn.frames > 0 && turn.state !== "open") {
      const again = element("button", { type: "button", textContent: "Hear again" });
      again.onclick = () => this.replay(turn);
      line.append(again);
    }
  }

  /** Remove a turn that was not one. */
  remove(id) {
    this.rows.get(id)?.remove();
    this.rows.delete(id);
  }

  clear() {
    byId("turns").replaceChildren();
    this.rows.clear();
    byId("welcome").hidden = false;
    byId("download").hidden = true;
  }

  // ------------------------------------------------------------------------------------------ words

  /**
   * Show a problem and what to do. One notice per title, which is read out once however often it is told.
   * @param {{label: string, run: () => void}} [action] @param {boolean} [metered] with the level of the microphone
   */
  notice(title, text, action, metered = false) {
    const shown = JSON.stringify([text, action?.label]);
    if (this.#notice(title)?.dataset.shown === shown) return;
    this.removeNotice(title);
    const close = element("button", { type: "button", className: "icon", ariaLabel: "Dismiss" });
    close.innerHTML = '<svg viewBox="0 0 24 24" aria-hidden="true"><path d="M7 7l10 10M17 7 7 17"/></svg>';
    const body = element("div", {}, element("strong", { textContent: title }), element("p", { textContent: text }));
    if (metered) body.append(element("meter", { className: "level", ariaLabel: "Level of the microphone" }));
    if (action) {
      const act = element("button", { type: "button", className: "plain act", textContent: action.label });
      act.onclick = () => (this.removeNotice(title), action.run());
      body.append(act);
    }
    const box = element("div", { className: "notice" }, body, close);
    Object.assign(box.dataset, { title, shown });
    close.onclick = () => (box.remove(), byId("message").focus());
    byId("notices").append(box);
  }

  /** Remove the notice with this title. */
  removeNotice(title) {
    this.#notice(title)?.remove();
  }

  #notice(title) {
    return [...byId("notices").children].find((box) => box.dataset.title === title);
  }

  model(name) {
    byId("model").textContent = name;
  }

  /** @param {string} knows one line about the model. @param {string[]} examples @param {(text: string) => void} say */
  introduce(knows, examples, say) {
    byId("knows").textContent = knows;
    byId("suggestions").replaceChildren(
      ...examples.map((text) => {
        const button = element("button", { type: "button", textContent: text });
        button.onclick = () => say(text);
        return element("li", {}, button);
      }),
    );
  }

  announce(text) {
    byId("announcer").textContent = text;
  }

  phase(phase, words) {
    document.body.dataset.phase = phase;
    if (byId("phase").textContent !== words) byId("phase").textContent = words;
    byId("stop").hidden = !["thinking", "speaking"].includes(phase);
  }

  connection(state, words, reason = "") {
    const place = byId("connection");
    const shown = [state, words, reason].join("|");
    if (shown === this.shownConnection) return; // it is read out when it is written
    this.shownConnection = shown;
    place.dataset.state = state;
    place.title = reason;
    place.querySelector("span").textContent = words;
  }

  /** @param {Record<string, string>} figures by id. */
  figures(figures) {
    for (const [id, text] of Object.entries(figures)) {
      if (byId(id).textContent !== text) byId(id).textContent = text;
    }
  }

  talkButton({ label, pressed, disabled }) {
    const button = byId("talk");
    button.querySelector("span").textContent = label;
    button.toggleAttribute("data-on", pressed);
    button.disabled = disabled;
  }

  // ------------------------------------------------------------------------------------------ the voice line

  /** Show the level of the microphone, 0..1, in the ring around the button and in the line. */
  microphone(level) {
    this.level = Math.max(level, this.level * 0.8);
    byId("talk").style.setProperty("--level", this.level.toFixed(2));
  }

  /** Show the level of the microphone, 0..1, in all meters. */
  meter(level) {
    for (const meter of document.querySelectorAll("meter.level")) meter.value = Math.max(level, meter.value * 0.8);
  }

  /** Draw one frame of the line: the wave of the reply, the level of the microphone, or a flat line. @param {AnalyserNode} [analyser] */
  line(analyser, speaking) {
    const scale = devicePixelRatio || 1;
    const width = Math.round(this.canvas.clientWidth * scale);
    const height = Math.round(this.canvas.clientHeight * scale);
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    const pen = this.canvas.getContext("2d");
    pen.clearRect(0, 0, width, height);
    const live = !this.still.matches && (speaking || this.level > 0.02);
    pen.strokeStyle = getComputedStyle(live ? this.canvas : document.body).color;
    pen.globalAlpha = live ? 0.9 : 0.18;
    pen.lineWidth = (live ? 1.6 : 1) * scale;
    pen.beginPath();
    const wave = live && speaking && analyser ? new Float32Array(analyser.fftSize) : null;
    wave && analyser.getFloatTimeDomainData(wave);
    const time = performance.now() / 160;
    for (let x = 0; x <= width; x += 2 * scale) {
      const place = x / width;
      const window = Math.sin(Math.PI * place) ** 2;
      const own = live ? this.level * Math.sin(place * 42 + time) * Math.sin(place * 13 - time / 2) : 0;
      const value = wave ? wave[Math.min(wave.length - 1, Math.floor(place * wave.length))] * 4 : own;
      const y = height / 2 - Math.tanh(value * window) * (height / 2 - scale);
      x ? pen.lineTo(x, y) : pen.moveTo(x, y);
    }
    pen.stroke();
    if (!speaking) this.microphone(0);
  }
}
