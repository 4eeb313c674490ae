/** The settings dialog: choices of the user, kept in this browser, and the part that the server needs. */
import { forBrowser, forTab } from "./storage.js";

const KEPT = "echox-settings";
const KEY = "echox-key";
const SAVE_DELAY_MS = 250;
const JUDGED_PAUSE_MS = 4000; // the longest that a server waits which judges whether a sentence is complete
const UNITS = { volume: (v) => `${Math.round(v * 100)} %`, temperature: twoDigits, top_p: twoDigits };

function twoDigits(value) {
  return Number(value).toFixed(2);
}

/** Select a value, though it is not in the list (yet): names of microphones and voices are known later than the choice. */
function choose(select, value) {
  if (![...select.options].some((option) => option.value === value)) select.add(new Option("The one chosen before", value));
  select.value = value;
}

/** Events: `change` (detail: a Set of names of settings). */
export class Settings extends EventTarget {
  /** @param {HTMLDialogElement} dialog */
  constructor(dialog) {
    super();
    this.dialog = dialog;
    this.form = dialog.querySelector("form");
    this.browser = forBrowser();
    this.tab = forTab();
    this.touched = new Set(); // settings that the user has changed; the others follow the model
    this.changed = new Set(); // changed and not reported yet
    this.turnsAreJudged = false; // by the server: whether a sentence is complete
    this.#load();
    this.form.addEventListener("input", ({ target }) => {
      this.touched.add(target.name);
      this.#save();
      this.#label();
      this.changed.add(target.name);
      clearTimeout(this.timer); // a dragged slider is one change
      this.timer = setTimeout(() => this.flush(), SAVE_DELAY_MS);
    });
    dialog.addEventListener("close", () => this.flush());
    dialog.addEventListener("click", ({ target }) => target === dialog && dialog.close()); // a click outside the dialog
    this.#label();
  }

  /** Undo every choice but the key: what is not chosen follows the model and the server again. */
  reset() {
    const { key } = this;
    this.form.reset();
    this.form.elements.key.value = key;
    for (const name of this.touched) this.changed.add(name);
    this.touched.clear();
    this.#save();
    this.#label();
    this.flush();
  }

  /** Report pending changes now: before a turn is sent, so that they apply to its reply. */
  flush() {
    clearTimeout(this.timer);
    if (!this.changed.size) return;
    const detail = this.changed;
    this.changed = new Set();
    this.dispatchEvent(new CustomEvent("change", { detail }));
  }

  get handsFree() {
    return this.#value("mode") === "hands-free";
  }

  get speak() {
    return this.form.elements.speak.checked;
  }

  get volume() {
    return Number(this.#value("volume"));
  }

  get device() {
    return this.#value("device");
  }

  get noiseSuppression() {
    return this.form.elements.noise.checked;
  }

  get calls() {
    return this.form.elements.calls.checked;
  }

  get key() {
    return this.#value("key").trim();
  }

  /** Whether the model can be given tools, so that there is a choice. */
  get offersTools() {
    return !document.getElementById("tools-choice").hidden;
  }

  /** The server's model calls tools, or not: show the choice. */
  offerTools(supported) {
    document.getElementById("tools-choice").hidden = !supported;
  }

  get tools() {
    return this.offersTools && this.form.elements.tools.checked;
  }

  get announce() {
    return this.form.elements.announce.checked || this.volume === 0 || !this.speak;
  }

  /** The server can judge, or not, whether what was said is complete: unless a pause is chosen, that ends a turn. */
  offerJudgement(supported) {
    this.turnsAreJudged = supported;
    this.#label();
  }

  get endsWhenComplete() {
    return this.turnsAreJudged && !this.touched.has("silence");
  }

  /** The silence that ends a turn for sure. */
  get silenceMs() {
    return this.endsWhenComplete ? JUDGED_PAUSE_MS : Number(this.#value("silence"));
  }

  /** The session object of the protocol. */
  session() {
    const format = { type: "audio/pcm", rate: 24000 };
    const sampling = ["temperature", "top_p", "seed"].filter((name) => this.touched.has(name) && this.#value(name) !== "");
    const voice = this.#value("voice");
    return {
      type: "realtime",
      output_modalities: [this.speak ? "audio" : "text"],
      instructions: this.#value("instructions").trim(),
      ...Object.fromEntries(sampling.map((name) => [name, Number(this.#value(name))])),
      audio: {
        input: {
          format,
          transcription: { model: "echox" },
          turn_detection: this.handsFree
            ? {
                type: this.endsWhenComplete ? "semantic_vad" : "server_vad",
                ...(this.touched.has("silence") && { silence_duration_ms: this.silenceMs }),
                duck_events: true,
                speculation_events: true,
              }
            : null,
        },
        output: { format, ...(voice && { voice }) },
      },
    };
  }

  /** Show the settings of a session: those of the model, and its voices if there are several. */
  show(session) {
    for (const name of ["temperature", "top_p"]) {
      if (!this.touched.has(name) && typeof session[name] === "number") this.form.elements[name].value = session[name];
    }
    const { voices = [], voice } = session.audio?.output ?? {};
    const select = this.form.elements.voice;
    const chosen = this.touched.has("voice") && voices.includes(select.value) ? select.value : voice;
    select.replaceChildren(...voices.map((name) => new Option(name, name, name === voice, name === chosen)));
    document.getElementById("voice-field").hidden = voices.length < 2;
    this.#label();
  }

  /** List microphones; browsers show their names only after permission. */
  async listDevices() {
    const devices = (await navigator.mediaDevices?.enumerateDevices?.()) ?? [];
    const select = this.form.elements.device;
    const chosen = select.value;
    const microphones = devices.filter(({ kind, label, deviceId }) => kind === "audioinput" && label && deviceId !== "default");
    select.replaceChildren(new Option("As the system", ""), ...microphones.map((d) => new Option(d.label, d.deviceId)));
    choose(select, chosen);
  }

  #value(name) {
    return this.form.elements[name].value;
  }

  #label() {
    for (const output of this.form.querySelectorAll("output")) {
      const name = output.htmlFor.value;
      output.value = name === "silence" ? this.#pause() : UNITS[name](this.#value(name));
      this.form.elements[name].setAttribute("aria-valuetext", output.value);
    }
    this.form.elements.silence.disabled = !this.handsFree;
  }

  #pause() {
    return this.endsWhenComplete ? "when you have finished" : `after ${this.silenceMs} ms`;
  }

  #load() {
    const kept = this.browser.get(KEPT) ?? {};
    for (const [name, value] of Object.entries(kept)) {
      const element = this.form.elements[name];
      if (!element) continue;
      this.touched.add(name);
      if (typeof value === "boolean") element.checked = value;
      else if (element instanceof HTMLSelectElement) choose(element, value);
      else element.value = value;
    }
    this.form.elements.key.value = this.tab.get(KEY) ?? "";
  }

  #save() {
    const kept = {};
    for (const name of this.touched) {
      const element = this.form.elements[name];
      if (name !== "key") kept[name] = element.type === "checkbox" ? element.checked : element.value;
    }
    this.browser.set(KEPT, kept);
    this.tab.set(KEY, this.key); // kept for this tab only, never on disk
  }
}
