/** Notices that the microphone gives no sound, or that nothing could be made of it. */

const SILENT_MS = 6000;
const QUIET = 0.002; // level of an open microphone in a quiet room is above it, of a muted one below

/** Calls `onSilent` once when nothing has come for some seconds, and `onSound` when something does again. */
export class Hearing {
  constructor(onSilent, onSound) {
    Object.assign(this, { onSilent, onSound });
    this.restart();
  }

  /** The microphone was switched on, or another one was chosen. */
  restart() {
    this.soundAt = performance.now();
    this.told = false;
  }

  /** One chunk of the microphone. @param {number} level 0..1 */
  hear(level) {
    const now = performance.now();
    if (level > QUIET) {
      this.soundAt = now;
      if (this.told) this.onSound();
      this.told = false;
    } else if (!this.told && now - this.soundAt > SILENT_MS) {
      this.told = true;
      this.onSilent();
    }
  }
}
