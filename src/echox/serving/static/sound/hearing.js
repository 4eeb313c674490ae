/** Notices that the microphone gives no sound, or that nothing could be made of it. */

const SILENT_MS = 6000;
const QUIET = 0.002; // level of an open microphone in a quiet room is above it, of a muted one below
const CHECK_MS = 500;

/** Calls `onSilent` once when nothing has come for some seconds, and `onSound` when something does again. */
export class Hearing {
  /** @param {() => boolean} isOn whether something should be heard. @param {() => void} onSilent @param {() => void} onSound */
  constructor(isOn, onSilent, onSound) {
    Object.assign(this, { isOn, onSilent, onSound });
    this.restart();
    setInterval(() => this.#check(performance.now()), CHECK_MS); // a microphone that was stopped gives no chunks either
  }

  /** The microphone was switched on, or another one was chosen. */
  restart() {
    this.soundAt = performance.now();
    this.told = false;
  }

  /** One chunk of the microphone. @param {number} level 0..1 */
  hear(level) {
    if (level <= QUIET) return;
    const { told } = this;
    this.restart();
    if (told) this.onSound();
  }

  #check(now) {
    if (!this.isOn()) this.restart();
    else if (!this.told && now - this.soundAt > SILENT_MS) {
      this.told = true;
      this.onSilent();
    }
  }
}
